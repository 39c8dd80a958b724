"""Scores of raw shards are those of the model, cached, and equal for any sharding."""

import hashlib
import io
import json

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from dataops.shards.tar import ShardWriter
from dataops.snapshot import Draft
from dataops.store import FolderStore
from plugins.scores import job as score_job
from plugins.scores import scorers as score_clip
from plugins.scores.compute import IMAGES, SIZES, ShardImages, Sizes, compute_score, read_found
from plugins.scores.config import ScoresConfig
from tasks.engine import subprocess_job as jobs
from tasks.engine.context import Context
from tests.image_files import photo
from tests.inline_executor import InlineExecutor
from tests.small_model import write_model
from training.model.checkpoint import load_model
from training.model.preprocess import decode_rgb

CAPTIONS = ["a red thing", "blue", "a pale thing on a green thing"]


ROWS = [(f"{n:032x}", CAPTIONS[n % 3], photo(n)) for n in range(12)]
ROWS += [
    (f"{12:032x}", "broken", photo(50)[:300]),
    (f"{13:032x}", CAPTIONS[1], ROWS[0][2]),
]  # the first image, with another caption


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models"), CAPTIONS)


POOL = InlineExecutor()


@pytest.fixture(autouse=True)
def scored_shards(monkeypatch):
    """Run jobs and workers in this process; return the names of the tasks that were scored."""
    names = []

    def in_process(module, job, folder, *, on_line):
        assert module == "plugins.scores.job"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(job))
        assert score_job.main([str(folder / "job.json")]) == 0
        names.extend(shard["name"] for shard in job["shards"])

    monkeypatch.setattr(score_clip, "run_job", in_process)
    monkeypatch.setattr(POOL, "before", lambda task: names.append(task.name))
    return names


def scores_of(device="cpu", **tables):
    return ScoresConfig.model_validate({"device": device, **tables})


def write_shards(draft, rows, size):
    written = []
    for start in range(0, len(rows), size):
        number, out, batch = f"{start // size:05d}", io.BytesIO(), rows[start : start + size]
        writer = ShardWriter(out)
        for key, caption, data in batch:
            writer.write(key, {"jpg": data, "json": b"{}", "txt": caption.encode()})
        writer.close()
        draft.store.put(f"raw/{size}/{number}.tar", out.getvalue())
        table = [{"key": k, "caption": c, "image_digest": hashlib.sha256(d).hexdigest()} for k, c, d in batch]
        part = draft.put_table(f"_work/images-{number}.parquet", pa.Table.from_pylist(table, IMAGES))
        written.append(ShardImages(number, f"raw/{size}/{number}.tar", "jpg", draft.path(part.name)))
    return written


def score(store, home, rows, size, config, sizes=SIZES):
    """Return the scores of each key."""
    draft = Draft(store, "curate", f"{size:016x}")
    parts = write_shards(draft, rows, size)
    batches = [parts[start : start + 2] for start in range(0, len(parts), 2)]
    found = {key: {} for key, _, _ in rows}
    for scorer in config.scorers():
        lookup = compute_score(scorer, batches, len(rows), draft, Context(store, home, pool=POOL), sizes)
        columns = pa.concat_tables(read_found(draft, lookup, batch) for batch in range(len(batches)))
        for key, values in zip(found, columns.to_pylist(), strict=True):
            found[key] |= values
    return found


def test_scores_equal_those_of_the_model_for_any_sharding(tmp_path, checkpoint):
    config = scores_of(clip_score={"model": str(checkpoint)})
    whole = score(FolderStore(tmp_path / "a"), tmp_path, ROWS, 100, config)
    loaded = load_model(checkpoint)
    for key, caption, data in ROWS:
        if caption == "broken":
            assert whole[key] == {"clip_score": None}
            continue
        with torch.inference_mode():
            image = loaded.model.encode_image(loaded.preprocess(decode_rgb(data))[None])[0]
            text = loaded.model.encode_text(loaded.tokenizer([caption]))[0]
        cosine = float(torch.nn.functional.cosine_similarity(image, text, dim=0))
        assert whole[key]["clip_score"] == pytest.approx(cosine, abs=2e-6)
    assert whole[ROWS[0][0]] != whole[ROWS[13][0]]  # one image with two captions
    assert score(FolderStore(tmp_path / "b"), tmp_path, ROWS, 3, config) == whole
    assert not list((tmp_path / "jobs").iterdir())


@pytest.mark.parametrize("sizes", [SIZES, Sizes(3, 1, 1)], ids=["one partition", "several"])
def test_cached_scores_are_not_computed_again(tmp_path, checkpoint, scored_shards, sizes):
    store = FolderStore(tmp_path / "store")
    config = scores_of(clip_score={"model": str(checkpoint)})
    few = score(store, tmp_path, ROWS[:8], 4, config, sizes)
    assert [name[:5] for name in scored_shards] == ["00000", "00001"]
    scored_shards.clear()
    assert score(store, tmp_path, ROWS[:8], 3, config, sizes) == few
    assert scored_shards == []
    grown = score(store, tmp_path, ROWS, 100, config, sizes)
    assert len(scored_shards) == 1
    assert {key: grown[key] for key in few} == few
    # Only the new images are scored: the cache's three objects hold 4, 4 and 6 scores.
    tables = sorted(len(table) for table in map(store.read, store.names("scores")))
    assert len(tables) == 3
    scored_shards.clear()
    other = scores_of(clip_score={"model": str(write_model(tmp_path / "other", CAPTIONS, 1))})
    assert score(store, tmp_path, ROWS, 100, other, sizes) != grown
    assert len(scored_shards) == 1


def test_only_the_scores_of_a_damaged_cache_object_are_computed_again(tmp_path, checkpoint, scored_shards, caplog):
    store = FolderStore(tmp_path / "store")
    config = scores_of(clip_score={"model": str(checkpoint)})
    first = score(store, tmp_path, ROWS, 7, config)
    store.put(store.names("scores")[0], b"")
    scored_shards.clear()
    assert score(store, tmp_path, ROWS, 7, config) == first
    assert len(scored_shards) == 1
    assert "computed again" in caplog.text


def test_aesthetic_does_not_depend_on_captions(tmp_path, checkpoint, scored_shards):
    save_file({"weight": torch.linspace(-1, 1, 16)}, tmp_path / "head.safetensors")
    config = scores_of(aesthetic={"model": str(checkpoint), "head": tmp_path / "head.safetensors"})
    rows = [ROWS[0], ROWS[1], ROWS[12], ROWS[13]]
    found = score(FolderStore(tmp_path / "s"), tmp_path, rows, 2, config)
    assert list(found[ROWS[0][0]]) == ["aesthetic"]
    assert found[ROWS[0][0]] == found[ROWS[13][0]]  # the same image in two shards is scored once
    assert len(scored_shards) == 2
    assert found[ROWS[12][0]] == {"aesthetic": None}
    scored_shards.clear()
    assert score(FolderStore(tmp_path / "s"), tmp_path, rows, 3, config) == found
    assert scored_shards == []


def test_clip_score_runs_in_a_subprocess_and_reports_progress(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(score_clip, "run_job", jobs.run_job)
    progress = []
    store = FolderStore(tmp_path / "s")
    draft = Draft(store, "curate", "k")
    parts = write_shards(draft, ROWS[:6], 3)
    config = scores_of(clip_score={"model": str(checkpoint)})
    context = Context(store, tmp_path, progress=lambda done, total, line: progress.append((done, total)))
    (scorer,) = config.scorers()
    lookup = compute_score(scorer, [parts], 6, draft, context)
    columns = read_found(draft, lookup, 0)
    assert columns.column_names == ["clip_score"]
    assert (len(columns["clip_score"]), columns["clip_score"].null_count) == (6, 0)
    assert progress == sorted(progress)
    assert progress[-1] == (2, 2)
