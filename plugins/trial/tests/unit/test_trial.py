from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Draft, read_parts
from dataops.store import open_store
from flows.app import run_command
from flows.config import RunConfig
from flows.records import StageRun, create_run
from plugins.trial import trial as trials
from plugins.trial.sample import take_sample
from plugins.trial.trial import try_stage
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tests.growing import put_night
from tests.inline_executor import InlineExecutor, inline_context
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import chain, some_pairs

CAPTIONS = [*(f"a red bird number {n}" for n in range(60)), *(f"bird {n}" for n in range(40)), *(["a bird"] * 20)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a home with a run that has finished extract, and one that has finished download."""
    folder = tmp_path_factory.mktemp("home")
    rows = [(f"https://a.test/{n}.jpg", caption) for n, caption in enumerate(CAPTIONS)]
    put_night(folder, 0, [*rows, *[("https://b.test/1.jpg", "another red bird")] * 200])
    values = {
        "name": "birds",
        "store": {"uri": str(folder / "store")},
        "source": {"kind": "warc", "paths": [str(folder / "nights" / "*.warc")]},
        "filter": {"blocked_domains": ["b.test"]},
    }
    config = RunConfig.model_validate(values)
    store = open_store(config.store.uri)
    record = create_run(config, folder)
    manifest = make(plan(EXTRACT, config.stage_config("source"), 0, [], store), inline_context(store, folder))
    found = {"extract": manifest, "download": chain(store, some_pairs())["download"]}
    for stage, one in found.items():
        record.set_stage(StageRun(stage=stage, key=one.key, state="Completed", counts=one.counts))
    record.begin()
    record.end("completed")
    record.save(store)
    return folder


@pytest.fixture(autouse=True)
def inline(monkeypatch):
    @contextmanager
    def workers(context):
        yield replace(context, pool=InlineExecutor())

    monkeypatch.setattr(trials, "shared_workers", workers)


def attempt(home, stage, *settings, rows=10_000):
    return try_stage(stage, settings, rows, home, None, None)


def test_setting_of_filter_shows_what_is_dropped_now_and_what_is_kept_now(home):
    found = attempt(home, "filter", "filter.min_words=3")
    assert (found.rows, found.of_rows) == (320, 320)
    assert found.before["kept"] - found.after["kept"] == 60
    assert found.after["too_few_words"] == 60
    assert found.changed.height == 60
    assert set(found.changed["before"]) == {"kept"}
    assert set(found.changed["after"]) == {"too_few_words"}
    assert found.changed.height + found.unchanged.height == 320
    assert sum(found.before.values()) == sum(found.after.values()) == 320
    back = attempt(home, "filter", "filter.blocked_domains=[]")
    assert set(back.changed["before"]) == {"blocked_domain"}
    assert back.changed["after"].value_counts().sort("count").rows() == [("kept", 1), ("duplicate_uid", 199)]


@pytest.mark.parametrize(
    ("stage", "settings", "error"),
    [
        ("train", [], "train cannot be tried: a sample shows nothing about a model"),
        ("download", [], "download cannot be tried: it sends requests"),
        ("filter", ["curate.min_side=3"], "change nothing in filter: curate.min_side=3; set keys of"),
        ("filter", ["filter.min_word=3"], r"did you mean filter.min_words\?.*\(--set\)"),
        ("filter", ["filter.min_words=true"], r"filter.min_words: true: it must be an integer \(--set\)"),
        ("filter", ["filter.min_words"], "it has no value"),
    ],
)
def test_what_cannot_be_tried_is_an_error(home, stage, settings, error):
    with pytest.raises(ConfigError, match=error):
        attempt(home, stage, *settings)


@pytest.mark.parametrize(
    ("sizes", "rows", "expected"),
    [([5, 100, 3, 100], 50, 50), ([5, 3], 50, 8), ([40] * 100, 1000, 1000), ([0, 7], 3, 3)],
)
def test_sample_is_spread_over_the_parts_and_has_as_many_rows_as_asked_for(tmp_path, sizes, rows, expected):
    source = open_store(str(tmp_path / "source"))
    draft = Draft(source, "extract", "0" * 16)
    parts = [
        draft.put_table(f"part-{n:05d}.parquet", pa.table({"uid": [f"{n:016x}{row:016x}" for row in range(size)]}))
        for n, size in enumerate(sizes)
    ]
    sample = take_sample(source, build_manifest("extract", parts), rows, open_store(str(tmp_path / "target")))
    found = read_parts(open_store(str(tmp_path / "target")), sample)["uid"].to_pylist()
    assert len(found) == len(set(found)) == sample.counts.kept == expected
    assert len({uid[:16] for uid in found}) == min(sum(size > 0 for size in sizes), max(16, rows // 40), rows)


def test_command_prints_examples_or_json(home, monkeypatch, capsys, read_json):
    monkeypatch.setenv("PAIRMILL_HOME", str(home))
    assert run_command(["try", "filter", "--set", "filter.min_words=3", "--examples", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Dropped now: 60 rows, 2 of them" in printed
    assert "too_few_words  a bird" in printed or "too_few_words  bird " in printed
    assert "+60" in printed
    assert run_command(["try", "filter", "--set", "filter.min_words=3", "--json"]) == 0
    result = read_json()
    assert len(result["newly_dropped"]) == 50
    assert result["newly_dropped"][0].keys() == {"uid", "url", "caption", "before", "after"}
    assert (result["changed"], result["newly_kept"], result["rows"]) == (60, [], 320)
