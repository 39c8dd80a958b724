import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dataops.errors import ContractError, CorruptPart
from dataops.schema import CURATED, DOWNLOADED, PACKED, uid
from dataops.shards import ShardWriter, read_samples
from dataops.snapshot import Counts, Draft, Manifest, Record, content_digest, read_parts, read_table
from dataops.store import FolderStore
from tasks import curate, pack
from tasks.curate import CURATE, JUDGED, CurateConfig, judge_image, resolve
from tasks.pack import PACK, PackConfig
from tasks.stage import Context, Plan, make, plan
from training.data import Dataset


def serially(function, tasks, draft: Draft, context: Context) -> list[Record]:
    """map_parts without processes: these tests are of what the tasks make."""
    return [draft.done(task.id) or draft.finish(function(draft, task)) for task in tasks]


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate, "map_parts", serially)
    monkeypatch.setattr(pack, "map_parts", serially)


def blocks(seed: int, size: int = 96) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def pair(url: str, caption: str, data: bytes, sha256: str | None = None, size: int = 96) -> dict[str, Any]:
    return {
        "uid": uid(url, caption), "url": url, "caption": caption, "status": "success", "original_width": size,
        "original_height": size, "sha256": sha256 or hashlib.sha256(url.encode() + data).hexdigest(), "data": data,
        "language_score": 0.1,
    }  # fmt: skip


def downloaded(store: FolderStore, pairs: list[dict[str, Any]], shard_size: int) -> Manifest:
    draft, parts = Draft(store, "download", f"k{shard_size}"), []
    for start in range(0, max(len(pairs), 1), shard_size):
        name, out = f"{start // shard_size:05d}", io.BytesIO()
        writer, rows = ShardWriter(out), []
        for offset, row in enumerate(pairs[start : start + shard_size]):
            key = f"{start + offset:09d}"
            writer.write(key, {"jpg": row["data"], "json": b"{}", "txt": row["caption"].encode()})
            rows.append({k: v for k, v in row.items() if k != "data"} | {"key": key, "shard": f"{name}.tar"})
        writer.close()
        parts.append(draft.put_bytes(f"{name}.tar", out.getvalue(), len(rows)))
        parts.append(draft.put_table(f"part-{name}.parquet", pa.Table.from_pylist(rows, DOWNLOADED)))
    return draft.commit(
        Manifest(
            stage="download", stage_version=1, key=draft.key, inputs=[], config={"encode_format": "jpg"}, seed=0,
            code={}, parts=parts, counts=Counts(input=len(pairs), kept=len(pairs)),
            content_digest=content_digest(parts), created_at="",
        )
    )  # fmt: skip


def some_pairs() -> list[dict[str, Any]]:
    first, second = blocks(1), blocks(2)
    smaller = first.resize((48, 48), Image.Resampling.LANCZOS).resize((96, 96), Image.Resampling.LANCZOS)
    return [
        pair("a", "red house", jpeg(first), "aa", size=100),
        pair("b", "Red  House", jpeg(first), "aa", size=120),  # same bytes as fetched, larger original
        pair("c", "red house", jpeg(smaller, 70), size=90),  # rescaled and compressed again
        pair("d", "a house", jpeg(first), "aa"),  # the same picture under another name
        pair("e", "red house", jpeg(second)),  # another picture under the same name
        pair("f", "broken", jpeg(second)[:900]),
        pair("g", "small", jpeg(second), size=20),
        pair("h", "blue house", jpeg(Image.fromarray(np.asarray(first)[:, :, ::-1].copy()))),
        *[pair(f"x{n}", f"caption {n}", jpeg(blocks(100 + n))) for n in range(12)],
    ]


def by_url(store: FolderStore, made: Manifest) -> dict[str, str | None]:
    kept = {row["url"]: None for row in read_parts(store, made).to_pylist()}
    return kept | {row["url"]: row["drop_reason"] for row in read_parts(store, made, "dropped-").to_pylist()}


REASONS = {"a": "exact_duplicate", "c": "near_duplicate", "f": "undecodable", "g": "too_small"}


@pytest.mark.parametrize("shard_size", [100, 7, 1])
def test_each_planted_case_and_no_other_is_dropped_on_any_partition(tmp_path: Path, shard_size: int) -> None:
    store, pairs = FolderStore(tmp_path), some_pairs()
    made = make(
        plan(CURATE, CurateConfig(same_caption=True), 0, [downloaded(store, pairs, shard_size)]),
        Context(store, tmp_path),
    )
    assert by_url(store, made) == {row["url"]: REASONS.get(row["url"]) for row in pairs}
    assert made.counts == Counts(
        input=20, kept=16, dropped={"exact_duplicate": 1, "near_duplicate": 1, "too_small": 1, "undecodable": 1}
    )
    kept = read_parts(store, made)
    assert kept.schema == CURATED
    assert all(len(value) == 16 for value in kept["phash"].to_pylist())
    assert store.names("curate") == sorted(made.path(name) for name in [*(p.name for p in made.parts), "manifest.json"])


def test_one_caption_a_picture_where_captions_need_not_agree(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    config = CurateConfig()
    made = make(plan(CURATE, config, 0, [downloaded(store, some_pairs(), 9)]), Context(store, tmp_path))
    reasons = by_url(store, made)
    assert {url: why for url, why in reasons.items() if why} == REASONS | {"d": "exact_duplicate"}
    assert reasons["h"] is None  # equal drawing in other colours is another picture


def test_search_for_near_duplicates_can_be_off(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    config = CurateConfig(same_caption=True, near_duplicate_distance=None)
    made = make(plan(CURATE, config, 0, [downloaded(store, some_pairs(), 9)]), Context(store, tmp_path))
    assert {u: why for u, why in by_url(store, made).items() if why} == {k: v for k, v in REASONS.items() if k != "c"}


def test_resolve_does_not_depend_on_the_order_of_rows() -> None:
    rows = []
    for row in some_pairs() * 2:
        said = judge_image(row["data"], (row["original_width"], row["original_height"]), CurateConfig())
        row = row | {"uid": uid(row["url"], str(len(rows))), "original_area": row["original_width"] ** 2}
        rows.append({name: row.get(name) for name in JUDGED.names} | said)
    expected = None
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(rows))
        table = pa.Table.from_pylist([rows[i] for i in order], JUDGED)
        found = dict(zip(table["uid"].to_pylist(), resolve(table, CurateConfig(same_caption=True)), strict=True))
        expected = expected or found
        assert found == expected
    assert expected is not None
    assert sum(why is None for why in expected.values()) == 16


def test_survivor_is_the_largest_then_the_best_described_then_the_first() -> None:
    def judged(*rows: tuple[str, str, int]) -> list[str | None]:
        common = {"sha256": "aa", "drop_reason": None, "phash": 1, "thumbnail": b"\0" * 768}
        table = [{"uid": u * 32, "caption": c, "original_area": a, **common} for u, c, a in rows]
        return resolve(pa.Table.from_pylist(table, JUDGED), CurateConfig())

    assert judged(("a", "long caption", 10), ("b", "x", 11)) == ["exact_duplicate", None]
    assert judged(("a", "x", 10), ("b", "longer", 10)) == ["exact_duplicate", None]
    assert judged(("b", "x", 10), ("a", "y", 10)) == ["exact_duplicate", None]


def test_rows_and_pictures_that_do_not_go_together_are_an_error(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    source = downloaded(store, some_pairs()[:3], 10)
    tar = source.path("00000.tar")
    good = store.read(tar)
    samples = list(read_samples(io.BytesIO(good), tar))
    for wrong, what in (
        (samples[:2], "found None where 000000002.jpg"),
        ([*samples, ("9", {"jpg": b""})], "'9' has no row"),
    ):
        out = io.BytesIO()
        writer = ShardWriter(out)
        for sample in wrong:
            writer.write(*sample)
        writer.close()
        store.put(tar, out.getvalue())
        with pytest.raises(CorruptPart, match=what):
            make(plan(CURATE, CurateConfig(), 0, [source]), Context(store, tmp_path))


def packed_in(folder: Path, raw_size: int, shard_size: int) -> tuple[FolderStore, Plan, Manifest, Manifest]:
    store = FolderStore(folder)
    source = downloaded(store, some_pairs(), raw_size)
    curated = make(plan(CURATE, CurateConfig(same_caption=True), 0, [source]), Context(store, folder))
    planned = plan(PACK, PackConfig(shard_size=shard_size), 0, [curated, source])
    return store, planned, source, make(planned, Context(store, folder))


def test_shards_hold_the_kept_pairs_with_their_own_bytes(tmp_path: Path) -> None:
    store, _, _, made = packed_in(tmp_path, raw_size=7, shard_size=6)
    assert made.facts["samples"] == made.counts.kept == 16
    assert made.facts["shards"] == 3
    assert [p.rows for p in made.named("part-")] == [6, 6, 4]
    rows = read_parts(store, made)
    assert rows.schema == PACKED
    assert rows["key"].to_pylist() == sorted(rows["key"].to_pylist())
    pictures = {row["uid"]: row["data"] for row in some_pairs()}
    for part in made.named("", ".tar"):
        table = read_table(store, made.path(f"part-{part.name.removesuffix('.tar')}.parquet"))
        with store.open(made.path(part.name)) as file:
            samples = dict(read_samples(file, part.name))
        assert list(samples) == table["key"].to_pylist()
        for row in table.to_pylist():
            assert row["shard"] == part.name
            members = samples[row["key"]]
            assert members["jpg"] == pictures[row["uid"]]
            assert members["txt"].decode() == row["caption"]
            assert json.loads(members["json"]) == row


def test_the_loader_draws_by_the_probabilities_that_balancing_wrote(tmp_path: Path) -> None:
    chances, drawn = [0.0, 0.03, 0.5, 1.0, None], []
    for shard_size in (2, 5):  # how the shards are cut must not show
        folder = tmp_path / str(shard_size)
        store = FolderStore(folder)
        pairs = [pair(f"x{n}", f"caption {n}", jpeg(blocks(100 + n))) for n in range(5)]
        pairs = [row | {"sampling_probability": chance} for row, chance in zip(pairs, chances, strict=True)]
        raw, context = downloaded(store, pairs, 5), Context(store, folder)
        curated = make(plan(CURATE, CurateConfig(), 0, [raw]), context)
        packed = make(plan(PACK, PackConfig(shard_size=shard_size), 0, [curated, raw]), context)
        tars = [folder / packed.path(part.name) for part in packed.named("", ".tar")]
        dataset = Dataset(tars, 32, 0)
        assert dataset.sampling is not None
        assert dataset.sampling.probabilities.tolist() == pytest.approx([0, 0.03, 0.5, 1, 1])
        assert len(tars) == -(-5 // shard_size)
        drawn.append([dataset.sampling.drawn(0, epoch).tolist() for epoch in range(50)])
        dataset.close()
    assert drawn[0] == drawn[1]
    assert 10 <= sum(epoch[2] for epoch in drawn[0]) <= 40


def test_packing_is_deterministic_whatever_the_raw_shards_were(tmp_path: Path) -> None:
    digests = {packed_in(tmp_path / str(n), size, 5)[3].content_digest for n, size in enumerate((7, 7, 20))}
    assert len(digests) == 1


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    store, planned, source, made = packed_in(tmp_path, raw_size=100, shard_size=100)
    store.delete_tree(made.path("").rstrip("/"))
    out = io.BytesIO()
    ShardWriter(out).close()
    store.put(source.path("00000.tar"), out.getvalue())
    with pytest.raises(CorruptPart, match=r"00000.tar: no 000000001.jpg"):
        make(planned, Context(store, tmp_path))


def test_nothing_left_is_an_error_with_the_numbers(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    source = downloaded(store, some_pairs()[5:7], 10)
    curated = make(plan(CURATE, CurateConfig(), 0, [source]), Context(store, tmp_path))
    with pytest.raises(ContractError, match=r"download kept 2 of 2; curate kept 0 of 2 \(too_small 1, undecodable 1\)"):
        make(plan(PACK, PackConfig(), 0, [curated, source]), Context(store, tmp_path))
