"""Packing gives the same bytes whatever parts the rows came in, copies images unchanged, and loses no pair."""

import io
import json
import re
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from PIL import Image

from dataops import plugins
from dataops.errors import ContractError, CorruptPart
from dataops.images.digests import PHASH, compute_phash
from dataops.schema import CAPTIONS, CURATED
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import UNDIGESTED, Counts, read_parts, read_table
from dataops.store import FolderStore
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import Target
from tasks.engine.stage import make, plan
from tasks.pack import sorted_runs as sort_layout
from tasks.pack import stage
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.inline_executor import InlineExecutor, inline_context
from tests.unit.tasks.dataset_chain import chain, packed, packed_in, pair, some_pairs
from training.data.loader import Dataset


def dataset_in(folder, pairs, *size, **config):
    store, manifests = packed_in(folder, pairs, *size, **config)
    return store, manifests["pack"]


def force_layout(monkeypatch, piece, limit):
    """Let images pass through runs of at most `limit` bytes, which are read in pieces of `piece` bytes."""
    choose = partial(sort_layout.choose_layout, piece_bytes=piece, local_rows=0)
    monkeypatch.setattr(stage, "choose_layout", lambda *sizes, **options: choose(*sizes[:3], limit, **options))


class TestWithoutProcesses:
    """What the tasks make."""

    def test_make_writes_the_kept_pairs_with_unchanged_images(self, tmp_path):
        pairs = some_pairs()
        store, packed_dataset = dataset_in(tmp_path, pairs, shard_size=6)
        assert packed_dataset.counts == Counts(input=17, kept=17)
        assert [part.rows for part in packed_dataset.named("part-")] == [6, 6, 5]
        rows = read_parts(store, packed_dataset)
        assert rows.schema == CURATED
        assert sorted(rows["uid"].to_pylist()) == sorted(row["uid"] for row in pairs if not row["drop_reason"])
        pictures = {row["uid"]: row["data"] for row in pairs}
        for number in ("00000", "00001", "00002"):
            table = read_table(store, packed_dataset.path(f"part-{number}.parquet"))
            with store.open(packed_dataset.path(f"{number}.tar")) as file:
                samples = dict(read_samples(file, number))
            assert list(samples) == table["key"].to_pylist()
            for row in table.to_pylist():
                assert row["shard"] == f"{number}.tar"
                assert list(samples[row["key"]]) == ["jpg", "txt", "json"]
                assert samples[row["key"]]["jpg"] == pictures[row["uid"]]
                assert samples[row["key"]]["txt"].decode() == row["caption"]
                assert json.loads(samples[row["key"]]["json"]) == row
        left = {f"{n:05d}{end}" for n in range(3) for end in (".tar", ".idx")} | {"DATASET.md", "dataset.html"}
        left |= {document.file for document in plugins.load("documents").values()}
        left |= {"manifest.json", *(f"part-{n:05d}.parquet" for n in range(3))}
        left |= {"index-totals.pq"}
        if plugins.load("row_indexes"):
            left |= {"index-00000.pq", "index-images-00000.pq", "index-parts.pq"}
        left |= {part.name for name in plugins.load("commitments") for part in packed_dataset.named(f"index-{name}-")}
        assert set(store.names("pack")) == {packed_dataset.path(name) for name in left}, "no scratch file stays"

    def test_make_gives_the_same_bytes_whatever_parts_the_rows_came_in(self, tmp_path, monkeypatch):
        pairs, manifests = some_pairs(), []
        ways = [
            (pairs, 20, 1),
            (pairs[5::-1] + pairs[6:], 3, 3000),
        ]
        # nor by how many bytes were written at a time
        for n, (arrived, raw_size, window) in enumerate(ways):
            monkeypatch.setattr(FolderStore, "window", window)
            manifests.append(dataset_in(tmp_path / str(n), arrived, raw_size, shard_size=5)[1])
        assert len({one.content_digest for one in manifests}) == 1
        named = [{p.name: p.sha256 for p in one.parts if p.name not in UNDIGESTED} for one in manifests]
        assert named == [named[0]] * 2

    def test_make_gives_the_same_bytes_whatever_the_passes(self, tmp_path, monkeypatch):
        pairs = [pair(n, data=bytes([n]) * (n * 37 % 900)) for n in range(25)]  # also an image without bytes
        limits = {"shard_size": 9, "shard_bytes": 3000}
        _, direct = dataset_in(tmp_path / "direct", pairs, 7, **limits)
        for piece, limit in ((2000, 1 << 30), (600, 3000), (600, 9000)):
            with monkeypatch.context() as patch:
                force_layout(patch, piece, limit)
                store, by_runs = dataset_in(tmp_path / f"{limit}", pairs, 40 if piece == 2000 else 7, **limits)
            assert by_runs.content_digest == direct.content_digest, (piece, limit)
            assert by_runs.facts == direct.facts
            assert [name for name in store.names("pack") if "_work" in name] == [], "no run is left"

    def test_make_names_an_image_that_is_missing(self, tmp_path):
        store = FolderStore(tmp_path)
        manifests = chain(store, some_pairs(), 7)
        out = io.BytesIO()
        ShardWriter(out).close()
        store.put(manifests["download"].path("00001.tar"), out.getvalue())
        with pytest.raises(CorruptPart, match=r"00001\.tar: no [0-9a-f]{32}\.jpg, which a row of curate names"):
            packed(store, tmp_path, manifests)

    def test_make_fails_with_counts_when_no_pair_is_left(self, tmp_path):
        store = FolderStore(tmp_path)
        manifests = chain(store, [pair(0, "too_small"), pair(1, "undecodable")], 10)
        message = r"download kept 2 of 2; curate kept 0 of 2 \(too_small 1, undecodable 1\)"
        with pytest.raises(ContractError, match=message):
            packed(store, tmp_path, manifests)

    @pytest.mark.parametrize(
        ("kills", "counts"),
        [
            (["rows-00001", "shard-00001", "shard-00003"], {"rows": 3, "shard": 4}),
            (["rows-00001", "merge-00002", "merge-00004", "shard-00001"], {"rows": 3, "merge": 6, "shard": 4}),
        ],
        ids=["one-pass", "two-passes"],
    )
    def test_make_resumes_after_a_crash_without_repeating_tasks(self, tmp_path, monkeypatch, kills, counts):
        _, whole = dataset_in(tmp_path / "whole", some_pairs(), shard_size=5)
        passes = 2 if "merge" in counts else 1
        layout = sort_layout.SortLayout(passes == 2, 12_000, passes, 8, 34_000)  # six rows a task
        monkeypatch.setattr(stage, "choose_layout", lambda *_, **__: layout)
        done = []

        def executor_killed_at(last):
            def record(task):
                step = task.id.partition("-")[0]
                number = sum(name == step for name in done)
                if f"{step}-{number:05d}" == last:
                    raise KeyboardInterrupt
                done.append(step)

            return InlineExecutor(record)

        for last in kills:
            with pytest.raises(KeyboardInterrupt):
                dataset_in(tmp_path / "killed", some_pairs(), pool=executor_killed_at(last), shard_size=5)
        _, packed_dataset = dataset_in(tmp_path / "killed", some_pairs(), pool=executor_killed_at(""), shard_size=5)
        assert packed_dataset.content_digest == whole.content_digest
        assert dict(Counter(done)) == counts, "each once"

    @pytest.mark.parametrize("runs", [False, True])
    def test_a_sample_has_the_further_captions_of_its_row(self, tmp_path, monkeypatch, runs):
        kinds = ("keywords", "synthetic")
        further = [[{"uid": f"{n:032x}", "caption": f"{kind} {n}", "caption_source": kind} for kind in kinds[: n % 3]]
                   for n in range(12)]  # fmt: skip
        pairs = [pair(n, captions=captions or None) for n, captions in enumerate(further)]
        if runs:
            force_layout(monkeypatch, 2000, 1 << 30)
        store, made = dataset_in(tmp_path, pairs, 5, shard_size=5)
        assert read_parts(store, made).schema == CURATED.append(CAPTIONS)
        texts = {row["url"]: [one["caption"] for one in row["captions"] or []] for row in pairs}
        for part in made.named("", ".tar"):
            with store.open(made.path(part.name)) as file:
                for _, members in read_samples(file, part.name):
                    row = json.loads(members["json"])
                    assert members["txt"].decode() == row["caption"]
                    assert [one["caption"] for one in row["captions"] or []] == texts[row["url"]]
        assert made.counts == Counts(input=12, kept=12), "a sample is a pair, whatever its captions"
        assert made.facts["further_captions"] == {"keywords": 8, "synthetic": 4}
        assert "Sources of the further captions" in store.read(made.path("DATASET.md")).decode()
        paths = [store.local(made.path(part.name)) for part in made.named("", ".tar")]
        dataset = Dataset(paths, 32, 0, caption_weights={"pair_list": 0, "keywords": 1})
        assert sorted(dataset.captions()) == sorted(
            [*(r["caption"] for r in pairs), *(text for of in texts.values() for text in of)]
        )
        dataset.close()


class TestOptOutLists:
    """The lists are read anew, and what they name by then is not packed."""

    def test_dataset_lacks_what_the_lists_name_and_its_key_has_their_content(self, tmp_path):
        pairs, letters = some_pairs(), tmp_path / "letters.txt"
        store, without = dataset_in(tmp_path / "store", pairs, shard_size=6)
        manifests = chain(store, pairs)
        letters.write_text(f"host1.example\n{pairs[0]['sha256']}\n# {pairs[2]['url']}\n")
        listed = {row["uid"] for row in pairs if not row["drop_reason"] and "host1." in row["url"]} | {pairs[0]["uid"]}
        first = packed(store, tmp_path, manifests, shard_size=6, opt_out_lists={"letters": str(letters)})
        letters.write_text(letters.read_text().replace("# ", ""))
        second = packed(store, tmp_path, manifests, shard_size=6, opt_out_lists={"letters": str(letters)})
        assert len({without.key, first.key, second.key}) == 3
        assert [one.key for one in first.inputs if one.stage == "opt_out_list"] == ["letters"]
        for manifest, removed in ((first, listed), (second, listed | {pairs[2]["uid"]})):
            assert manifest.counts == Counts(input=17, kept=17 - len(removed), dropped={"opt_out_list": len(removed)})
            dropped = read_parts(store, manifest, "dropped-").to_pylist()
            assert {row["uid"] for row in dropped} == removed
            assert {(row["page_opt_out"], row["drop_stage"], row["url"]) for row in dropped} == {
                ("list:letters", "pack", None)
            }
            assert removed.isdisjoint(read_parts(store, manifest)["uid"].to_pylist())
        assert packed(store, tmp_path, manifests, shard_size=6).key == without.key

    def test_copies_of_images_in_a_folder_are_not_packed(self, tmp_path):
        pairs = [row | {"phash": compute_phash(row["data"])} for row in some_pairs()]
        letters = tmp_path / "letters"
        letters.mkdir()
        image = Image.open(io.BytesIO(pairs[4]["data"]))
        image.resize((24, 24), Image.Resampling.LANCZOS).save(letters / "half.webp", quality=60)
        image.convert("RGB").resize((300, 300), Image.Resampling.BICUBIC).save(letters / "large.png")
        store = FolderStore(tmp_path / "store")
        manifest = packed(store, tmp_path, chain(store, pairs), shard_size=6, opt_out_lists={"letters": str(letters)})
        assert manifest.counts == Counts(input=17, kept=16, dropped={"opt_out_list": 1})

        (dropped,) = read_parts(store, manifest, "dropped-").to_pylist()
        assert dropped["uid"] == pairs[4]["uid"]
        found = re.fullmatch(r"list:letters phash:([0-9a-f]{16})~([0-4])", dropped["page_opt_out"])
        assert (int(found[1], 16) ^ int(pairs[4]["phash"], 16)).bit_count() == int(found[2])

    def test_digest_without_a_column_is_computed_from_the_images(self, tmp_path, monkeypatch):
        force_layout(monkeypatch, 600, 3000)
        monkeypatch.setattr(plugins, "find", lambda kind, name: replace(PHASH, column=None))
        pairs, letters = some_pairs(), tmp_path / "letters.csv"
        letters.write_text(f"phash\n{compute_phash(pairs[4]['data'])}\n{compute_phash(pairs[12]['data'])}\n")
        store = FolderStore(tmp_path / "store")
        lists = {"letters": str(letters)}
        manifest = packed(store, tmp_path, chain(store, pairs), shard_size=6, opt_out_lists=lists)
        dropped = read_parts(store, manifest, "dropped-").to_pylist()
        assert {row["uid"] for row in dropped} == {pairs[4]["uid"], pairs[12]["uid"]}
        assert all(row["page_opt_out"].endswith("~0") for row in dropped)

    def test_takedown_keeps_the_reasons_of_an_earlier_version(self, tmp_path):
        pairs, letters = some_pairs(), tmp_path / "letters.txt"
        store = FolderStore(tmp_path / "store")
        manifests = chain(store, pairs)
        letters.write_text("host1.example\n")
        lists = {"letters": str(letters)}
        first = packed(store, tmp_path, manifests, opt_out_lists=lists)
        record_request(store, make_request([Target("uid", pairs[0]["uid"])], ""))
        planned = plan(PACK, PackConfig(opt_out_lists=lists), 0, [manifests["curate"], manifests["download"]], store)
        context = inline_context(store, tmp_path)
        without_config = replace(planned, config=PackConfig.model_validate(first.config))
        second = make(without_config, context)  # as `pairmill takedown` does
        assert second.facts["parent"] == first.key
        assert second.counts.dropped == {"opt_out_list": first.counts.dropped["opt_out_list"], "takedown": 1}
        reasons = Counter(row["drop_reason"] for row in read_parts(store, second, "dropped-").to_pylist())
        assert reasons == second.counts.dropped
        store.delete([f"pack/{first.key}/manifest.json", f"pack/{second.key}/manifest.json"])
        with pytest.raises(ContractError, match="the opt-out list letters cannot be applied again without the config"):
            make(without_config, context)
