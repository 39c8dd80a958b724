"""Runs the filter stage on synthetic pairs: partitions, boilerplate, seen URLs, captions over hosts, balancing."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.errors import ConfigError
from dataops.snapshot import read_parts, read_table
from dataops.store import FolderStore
from tasks.filter.config import BalanceConfig, FilterConfig
from tasks.filter.stage import FILTER
from tasks.filter.write import write_parts
from tests.filter_runs import SUBJECTS, filtered, kept, some_pairs, with_sizes
from tests.inline_executor import InlineExecutor


def queries(tmp_path):
    path = tmp_path / "queries.parquet"
    pq.write_table(pa.table({"query": [*SUBJECTS, "old house", "night", "unicorn"]}), path)
    return str(path)


def test_balancing_samples_frequent_queries_and_drops_with_reasons(tmp_path):
    rows = some_pairs(300)
    balance = {"queries": queries(tmp_path), "max_per_query": 10}
    whole = filtered(tmp_path / "whole", rows)
    manifest = filtered(tmp_path / "offline", rows, balance=balance)
    assert set(manifest.counts.dropped) >= {"balanced", "no_query"}
    assert manifest.counts.kept < whole.counts.kept / 2
    every = [*SUBJECTS, "old house", "night", "unicorn"]
    for row in kept(tmp_path / "offline", manifest):
        assert row["query_ids"] == [i for i, query in enumerate(every) if query in row["caption"].lower()] != []
    online = filtered(tmp_path / "online", rows, balance=balance | {"mode": "online", "keep_unmatched": True})
    assert online.counts.kept == whole.counts.kept
    chances = [row["sampling_probability"] for row in kept(tmp_path / "online", online)]
    assert 0 < min(chances) < 0.5 < max(chances) == 1
    again = filtered(tmp_path / "again", rows, parts=3, balance=balance)
    assert again.content_digest == manifest.content_digest
    assert FILTER.external_inputs(FilterConfig(balance=balance))[0].key == "queries.parquet"
    with pytest.raises(ConfigError, match="pairmill queries build"):
        FILTER.external_inputs(FilterConfig(balance={"queries": "no/such.parquet"}))
    with pytest.raises(ValueError, match="no path has a NUL character"):
        BalanceConfig(queries="a\0b.parquet", max_per_query=1)


def test_the_size_of_slices_does_not_change_the_output(tmp_path):
    rows = some_pairs(700)
    config = {"dedupe": ["uid", "pair", "url", "caption"], "max_caption_count": 30, "languages": ["en"]}
    config |= {"balance": {"queries": queries(tmp_path), "max_per_query": 40, "keep_unmatched": True}}
    whole = filtered(tmp_path / "whole", rows, 2, **config)
    sliced = filtered(tmp_path / "sliced", rows, 2, stage=with_sizes(1, 150, 150), **config)
    assert sliced.counts == whole.counts
    assert sliced.facts | {"examples": {}} == whole.facts | {"examples": {}}
    assert [part.name for part in sliced.parts] == [part.name for part in whole.parts]
    for name in ("part-00000.parquet", "part-00001.parquet", "dropped-00000.parquet", "dropped-00001.parquet"):
        one, other = (
            read_table(FolderStore(tmp_path / at), m.path(name)) for at, m in (("whole", whole), ("sliced", sliced))
        )
        assert one.equals(other)


def test_resuming_with_other_partitions_gives_the_same_output(tmp_path):
    rows = some_pairs(200)
    config = {"dedupe": ["uid", "pair", "url", "caption"], "max_caption_count": 30}
    whole = filtered(tmp_path / "whole", rows, **config)

    def stop(task):
        if task.function is write_parts:
            raise KeyboardInterrupt

    for partitions in (8, 2):
        with pytest.raises(KeyboardInterrupt):
            filtered(tmp_path / "killed", rows, stage=with_sizes(partitions), pool=InlineExecutor(stop), **config)
    resumed = filtered(tmp_path / "killed", rows, stage=with_sizes(4), **config)
    assert resumed.content_digest == whole.content_digest


def test_opt_out_lists_drop_rows_and_name_the_list(tmp_path):
    rows = [row | {"page_opt_out": "noindex" if number % 2 else None} for number, row in enumerate(some_pairs(60))]
    rows[0]["caption"] = "x"  # another rule drops it first
    rows[1] |= {"url": "http://host7.example/only.jpg", "page_url": "http://q.example/"}
    letters = tmp_path / "letters.txt"
    letters.write_text("q.example\nhost3.example\n")
    plain = filtered(tmp_path / "plain", rows)
    listed = filtered(tmp_path / "listed", rows, opt_out_lists={"letters": str(letters)})
    assert "opt_out_list" not in plain.counts.dropped
    assert plain.key != listed.key
    assert [(one.stage, one.key) for one in listed.inputs[1:]] == [("opt_out_list", "letters")]
    dropped = read_parts(FolderStore(tmp_path / "listed"), listed, "dropped-").to_pylist()
    found = {row["uid"]: row["page_opt_out"] for row in dropped if row["drop_reason"] == "opt_out_list"}
    assert rows[1]["uid"] in found
    assert not any("host3." in row["url"] for row in kept(tmp_path / "listed", listed))
    expected = {row["uid"]: row["page_opt_out"] for row in rows if row["uid"] in found}
    assert found == {uid: f"{mark},list:letters" if mark else "list:letters" for uid, mark in expected.items()}
    assert listed.counts.dropped["opt_out_list"] == len(found) > 3
