"""Scores of a tiny model, compared with a direct computation of one image and one caption at a time."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from dataops.errors import ContractError
from plugins.scores.job import ShardToScore, main, read_head, score_shard
from tasks.curate.score import TO_SCORE
from tests.small_model import write_model
from tests.tar_files import write_tar
from tests.trainings import jpeg
from training.model.checkpoint import load_model
from training.model.load import load_any
from training.model.preprocess import decode_rgb

CAPTIONS = ["a red thing", "blue", "a pale thing on a green thing", "", "a red thing", "blue <|endoftext|> thing"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), CAPTIONS)


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_model(checkpoint)


def samples(count):
    return [(f"{n:032x}", jpeg(n, (40 + n % 3, 36)), CAPTIONS[n % len(CAPTIONS)]) for n in range(count)]


def to_score(folder, name, rows, leave_out=None):
    """Write a shard of these samples; all but one are to be scored."""
    folder.mkdir(exist_ok=True)
    members = [(f"{key}.{kind}", data) for key, image, text in rows for kind, data in (("jpg", image), ("json", b""))]
    write_tar(folder / f"{name}.tar", members)
    columns = [
        {"key": key, "caption": text, "id": bytes.fromhex(key)}
        for n, (key, _, text) in enumerate(rows)
        if n != leave_out
    ]
    pq.write_table(pa.Table.from_pylist(columns, TO_SCORE), folder / f"{name}.parquet")
    return ShardToScore(name=name, tar=folder / f"{name}.tar", extension="jpg", rows=folder / f"{name}.parquet")


def test_scores_do_not_depend_on_other_rows_or_threads(tmp_path, loaded):
    rows = samples(80)
    whole = score_shard(loaded, to_score(tmp_path, "whole", rows), threads=2)
    parts = [rows[start:stop][::-1] for start, stop in ((0, 1), (1, 9), (9, 80))]
    cut = pa.concat_tables(
        score_shard(loaded, to_score(tmp_path, f"p{i}", part), threads=1) for i, part in enumerate(parts)
    )
    assert cut.sort_by("id").equals(whole.sort_by("id"))


def test_a_head_scores_the_image_alone(tmp_path, loaded):
    weight = torch.linspace(-1, 1, 16)[None]
    save_file({"weight": weight, "bias": torch.tensor([5.0])}, tmp_path / "head.safetensors")
    rows = samples(3)
    scores = score_shard(loaded, to_score(tmp_path, "s", rows), read_head(tmp_path / "head.safetensors"))
    with torch.inference_mode():
        features = loaded.model.encode_image(torch.stack([loaded.preprocess(data) for _, data, _ in rows]))
        expected = (torch.nn.functional.normalize(features, dim=1) @ weight[0] + 5).numpy()
    np.testing.assert_allclose(scores["score"].to_numpy(), expected, atol=1e-5)
    save_file({"weight": weight / 0}, tmp_path / "head.safetensors")
    with pytest.raises(ContractError, match="not finite"):
        read_head(tmp_path / "head.safetensors")


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")  # open_clip reads OpenAI's files by it
def test_open_clip_models_score_as_in_open_clip(tmp_path):
    import open_clip

    vision = {"image_size": 32, "head_width": 64, "patch_size": 16, "width": 64, "layers": 1}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    torch.manual_seed(1)
    weights = open_clip.CLIP(16, vision, text).half().float().state_dict()  # as OpenAI's are, in 16 bits
    card = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {"size": 32}}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/open_clip_config.json").write_text(json.dumps(card))
    save_file(weights, tmp_path / "folder/open_clip_model.safetensors")
    facts = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    torch.save(weights | {name: torch.tensor(value) for name, value in facts.items()}, tmp_path / "openai.pt")
    rows = samples(5)
    shard = to_score(tmp_path, "s", rows)
    tokens = open_clip.SimpleTokenizer()([caption for _, _, caption in rows])
    transform = open_clip.image_transform(32, is_train=False)
    pixels = torch.stack([transform(decode_rgb(data)) for _, data, _ in rows])
    for name, quick_gelu in (("folder", False), ("openai.pt", True)):
        theirs = open_clip.CLIP(16, vision, text, quick_gelu=quick_gelu).eval()
        theirs.load_state_dict(weights)
        with torch.inference_mode():
            image, caption = theirs.encode_image(pixels, normalize=True), theirs.encode_text(tokens, normalize=True)
        scores = score_shard(load_any(tmp_path / name), shard)["score"].to_numpy()
        np.testing.assert_allclose(scores, (image * caption).sum(dim=1).numpy(), atol=1e-5)


def test_a_missing_sample_raises_an_error_that_names_it(tmp_path, loaded):
    shard = to_score(tmp_path, "s", samples(2))
    rows = [{"key": "ffff", "caption": "", "id": bytes(16)}]
    pq.write_table(pa.Table.from_pylist(rows, TO_SCORE), shard.rows)
    with pytest.raises(ContractError, match=r"s\.tar: has no sample 'ffff'"):
        score_shard(loaded, shard)
    with pytest.raises(ContractError, match="no member 'webp'"):
        score_shard(loaded, to_score(tmp_path, "t", samples(2)).model_copy(update={"extension": "webp"}))


def test_the_command_skips_shards_that_are_scored(tmp_path, checkpoint, caplog):
    shards = [to_score(tmp_path, name, samples(4)) for name in ("00000", "00001")]
    job = {"model": checkpoint, "shards": [s.model_dump() for s in shards], "output": tmp_path / "out"}
    (tmp_path / "job.json").write_text(json.dumps(job, default=str))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/00001.parquet").write_bytes(b"was done before")
    with caplog.at_level("INFO"):
        assert main([str(tmp_path / "job.json")]) == 0
    assert "shard 00000: scored 4, 0 unreadable" in caplog.text
    assert pq.read_table(tmp_path / "out/00000.parquet").num_rows == 4
    assert (tmp_path / "out/00001.parquet").read_bytes() == b"was done before"
