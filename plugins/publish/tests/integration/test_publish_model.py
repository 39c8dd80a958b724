"""A model is published to a server with the Hub's protocol, where open_clip and transformers read the same model."""

import hashlib
import json
import os

import pytest

from dataops.errors import ServiceError
from plugins.publish.publish import command
from tasks.models import export
from tests.photographs import CAPTIONS, sample_images
from tests.trainings import VIT
from training.model_config import ModelConfig

pytest.importorskip("plugins.export")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # the Hub's library causes it
    pytest.mark.xdist_group("torch"),
]
TOLERANCE = 1e-3
"""Of a logit; the layouts compute in another order."""


@pytest.fixture
def model(request, tmp_path):
    """Return the folder of a small ViT with random weights, and a vocabulary of its captions or CLIP's own."""
    pytest.importorskip("open_clip")
    import torch

    from training.model.checkpoint import save_model
    from training.model.clip import CLIP
    from training.model.preprocess import Preprocess
    from training.model.tokenizer import make_tokenizer, train_tokenizer

    is_clip, folder = request.param == "clip", tmp_path / "kites"
    tokenizer = make_tokenizer("clip", [], 0, 16) if is_clip else train_tokenizer(CAPTIONS, 300, 16)
    text = {"context_length": 16, "vocab_size": tokenizer.vocab_size, "width": 64, "heads": 2, "layers": 2}
    vision = {**VIT["vision_cfg"], "width": 128, "head_width": 64}
    config = {"embed_dim": 24, "quick_gelu": is_clip, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    folder.mkdir()
    save_model(folder, CLIP(ModelConfig.model_validate(config)), tokenizer, Preprocess(32))
    return folder


@pytest.fixture
def send(model, tmp_path, monkeypatch, capsys, read_json):
    """Return a function that publishes the model and returns the report; the export runs in this process."""

    def run_job(module, job, folder, **_):
        from training.export import main

        assert module == "training.export"
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({**job, "parent_pid": os.getpid()}))
        assert main([str(folder / "job.json")]) == 0

    def run(to):
        capsys.readouterr()
        assert command(str(model), to=to, license="Apache-2.0", json=True) == 0
        return read_json()

    monkeypatch.setattr(export, "run_job", run_job)
    return run


def compute_logits(loaded):
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        pixels = torch.stack([loaded.preprocess(image) for image in sample_images()])
        images, texts = loaded.model.encode_image(pixels), loaded.model.encode_text(loaded.tokenizer(CAPTIONS))
        return loaded.model.logit_scale.exp() * F.normalize(images) @ F.normalize(texts).T


def fetch(hub, folder):
    """Write the files of the repository to a folder."""
    folder.mkdir()
    for name, data in hub.repositories["team/kites"].items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("model", ["captions", "clip"], indirect=True)
def test_open_clip_and_transformers_compute_the_same_logits_with_a_vit_from_the_hub(hub, model, send, tmp_path):
    """Both layouts are in one repository, and share the tokenizer's files."""
    import torch

    from training.model.checkpoint import load_model

    transformers, open_clip = pytest.importorskip("transformers"), pytest.importorskip("open_clip")
    report, out = send("hub:team/kites"), fetch(hub, tmp_path / "back")
    assert {file["name"]: file["sha256"] for file in report["files"]} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()
    }
    assert "license: apache-2.0" in (out / "README.md").read_text()
    expected = compute_logits(load_model(model))
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(CAPTIONS)
    reader = transformers.CLIPProcessor.from_pretrained(out, backend="pil")
    inputs = reader(text=CAPTIONS, images=sample_images(), return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        images, texts, scale = theirs.eval()(torch.stack([preprocess(image) for image in sample_images()]), tokens)
        found = transformers.CLIPModel.from_pretrained(out).eval()(**inputs).logits_per_image
    for logits in (scale * images @ texts.T, found):
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("model", ["captions"], indirect=True)
def test_publication_that_is_killed_between_two_files_continues_with_the_next(hub, send, monkeypatch):
    """The server has the first weights and no commit, as after a kill: they are not uploaded again."""
    from huggingface_hub import HfApi

    send_file = HfApi.preupload_lfs_files

    def killed(api, repository, added, **options):
        if hub.uploads:
            raise ConnectionError("killed")
        send_file(api, repository, added, **options)

    with monkeypatch.context() as patched:
        patched.setattr(HfApi, "preupload_lfs_files", killed)
        with pytest.raises(ServiceError, match="the same command continues"):
            send("hub:team/kites")
    assert (len(hub.uploads), hub.commits) == (1, [])
    report = send("hub:team/kites")
    weights = [file["sha256"] for file in report["files"] if file["name"].endswith(".safetensors")]
    assert len(weights) == 2
    assert sorted(hub.uploads) == sorted(weights), "each of the weights was uploaded once"
    assert send("hub:team/kites")["bytes_to_send"] == 0
