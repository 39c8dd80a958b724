import io
import json
from pathlib import Path

import pytest

from dataops.errors import ContractError, CorruptPart
from dataops.schema import PACKED
from dataops.shards import ShardWriter, read_samples
from dataops.snapshot import Manifest, read_parts, read_table
from dataops.store import FolderStore
from tasks import curate, pack
from tasks.curate import CURATE
from tasks.curate_config import CurateConfig
from tasks.pack import PACK, PackConfig
from tasks.stage import Context, Plan, make, plan
from tests.unit.tasks.raw_pictures import blocks, downloaded, jpeg, pair, serially, some_pairs
from training.data import Dataset


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate, "map_parts", serially)
    monkeypatch.setattr(pack, "map_parts", serially)


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
    with pytest.raises(ContractError, match=r"download kept 2 of 2; curate kept 0 of 2 \(too_small 1, truncated 1\)"):
        make(plan(PACK, PackConfig(), 0, [curated, source]), Context(store, tmp_path))
