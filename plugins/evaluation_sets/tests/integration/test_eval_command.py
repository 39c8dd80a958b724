"""`pairmill eval` as a user runs it: two models on a suite of real and damaged sets, with its page."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from dataops.errors import ConfigError
from flows.app import run_command
from training.model.checkpoint import save_model
from training.model.clip import CLIP
from training.model.load import load_any
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
from training.model_config import ModelConfig

pytestmark = pytest.mark.timeout(120)  # the command's own process loads torch, twice
NAMES = ["<b>nought</b>", *(str(n) for n in range(1, 10))]


def model(folder: Path, seed: int) -> Path:
    tokenizer = train_tokenizer(NAMES, 280, 16)
    card = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": tokenizer.vocab_size, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(seed)
    folder.mkdir()
    save_model(folder, CLIP(ModelConfig.model_validate(card)), tokenizer, Preprocess(32))
    return folder


def write_digits(root: Path, kind: str) -> Path:
    scans, labels = load_digits(return_X_y=True)
    (root / "test").mkdir(parents=True)
    with tarfile.open(root / "test/0.tar", "w") as tar:
        for number in range(60):
            sink = io.BytesIO()
            Image.fromarray(np.rint(scans[number].reshape(8, 8) * 255 / 16).astype(np.uint8)).save(sink, "PNG")
            answer = ("cls", str(labels[number])) if kind == "classification" else ("txt", f"a <i>{labels[number]}</i>")
            for suffix, data in (("png", sink.getvalue() if number else b"broken"), (answer[0], answer[1].encode())):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (root / "test/nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(NAMES))
    (root / "zeroshot_classification_templates.txt").write_text("{c}\na <u>{c}</u>")
    return root


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    write_digits(tmp_path / "digits", "classification")
    write_digits(tmp_path / "captions", "retrieval")
    rows = ""
    for name, kind, extra in (
        ("digits", "classification", 'root = "digits"\nprotocols = ["prompts"]'),
        ("captions", "retrieval", 'root = "captions"'),
        ("never", "classification", 'missing = "nobody <s>has</s> it"'),
    ):
        rows += f'[[task]]\nname = "{name}"\nkind = "{kind}"\n{extra}\n'
    (tmp_path / "s.toml").write_text(f'name = "trial"\n{rows}')
    return tmp_path


def test_eval_compares_two_models_writes_a_page_and_reuses_results(workspace, capsys, caplog):
    caplog.set_level("INFO")
    first, second = model(workspace / "a", 0), model(workspace / "b", 1)
    matches = pa.table({"uid": ["u"], "evaluation_set": ["digits"], "member": ["007"]})
    pq.write_table(matches, workspace / "matches.parquet")
    command = ["eval", str(first), "--suite", str(workspace / "s.toml"), "--against", str(second)]
    page = workspace / "page.html"
    more = ["--matches", str(workspace / "matches.parquet"), "--page", str(page)]
    assert run_command([*command, *more, "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["metrics"]["digits"]["unreadable"] == 1
    assert out["average"]["missing"] == {"never": "nobody <s>has</s> it"}
    values = [
        out["metrics"]["digits"]["metrics"]["top1"]["value"],
        out["metrics"]["captions"]["metrics"]["mean_R@1"]["value"],
    ]
    assert out["average"]["value"] == pytest.approx(sum(values) / 2)
    assert out["comparison"]["digits"]["top1"]["verdict"] in ("better", "worse", "not distinguishable")
    assert {row["task"]: row["overlap"] for row in out["contamination"]} == {"digits": 1, "captions": 0}

    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") >= 8
    for markup in ("<b>nought", "<i>", "<u>", "<s>has", "<script"):
        assert markup not in html
    assert "&lt;b&gt;nought&lt;/b&gt;" in html
    assert "nobody &lt;s&gt;has&lt;/s&gt; it" in html

    assert run_command(command) == 0
    output = capsys.readouterr()
    assert "Average over 2 of 3 sets" in output.out
    assert "without never: nobody <s>has</s> it" in output.out
    assert sum("(reused)" in record.getMessage() for record in caplog.records) == 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "classnames.txt").unlink(), "classnames.txt: missing"),
        (lambda root: (root / "classnames.txt").write_text("a\nb"), "is no label from 0 to 1"),
        (lambda root: (root / "test/0.tar").write_bytes((root / "test/0.tar").read_bytes()[:20_000]), "0.tar"),
    ],
)
def test_eval_names_a_damaged_set(workspace, capsys, spoil, message):
    spoil(workspace / "digits")
    code = run_command(["eval", str(model(workspace / "a", 0)), "--suite", str(workspace / "s.toml")])
    assert code in (2, 3)
    assert message in capsys.readouterr().err


def test_eval_fails_without_a_model_or_a_suite(workspace, capsys):
    assert run_command(["eval", "", "--suite", str(workspace / "s.toml")]) == 2
    assert run_command(["eval", str(workspace / "nothing"), "--suite", str(workspace / "s.toml")]) == 2
    assert run_command(["eval", str(workspace), "--suite", str(workspace / "none.toml")]) == 2
    assert run_command(["eval", str(workspace), "--suite", str(workspace / "s.toml")]) == 2
    errors = capsys.readouterr().err
    assert "nothing': no such file or folder" in errors
    assert "the folder holds no weights (.bin, .json, .pt, .pth, .safetensors)" in errors


def open_clip_folder(folder: Path) -> tuple[Path, torch.nn.Module]:
    """Write a model as open_clip's push to the Hub does, with its own vocabulary."""
    card = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(2)
    theirs = open_clip.model.CLIP(**card).eval()
    folder.mkdir()
    preprocess = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": card, "preprocess_cfg": preprocess}))
    torch.save(theirs.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder, theirs


def test_open_clip_folder_gives_the_features_of_open_clip(workspace, capsys):
    folder, theirs = open_clip_folder(workspace / "theirs")
    loaded = load_any(folder)
    assert isinstance(loaded.model, CLIP)  # ours, which takes texts at their own length
    images, tokens = torch.randn(2, 3, 32, 32), loaded.tokenizer(["a cat", "two dogs"])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.encode_image(images), theirs.encode_image(images), atol=1e-5, rtol=1e-4)
        padded = torch.nn.functional.pad(tokens, (0, 16 - tokens.shape[1]))
        torch.testing.assert_close(loaded.model.encode_text(tokens), theirs.encode_text(padded), atol=1e-5, rtol=1e-4)
    white = loaded.preprocess(Image.new("RGB", (40, 32), "white"))
    torch.testing.assert_close(white, torch.ones(3, 32, 32))  # (1 - 0.5) / 0.5: the folder's own mean and deviation
    assert run_command(["eval", str(folder), "--suite", str(workspace / "s.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["digits"]["n"] == 60


def test_pickle_in_an_open_clip_folder_does_not_run(workspace):
    folder, _ = open_clip_folder(workspace / "theirs")
    witness = workspace / "ran"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (witness,)

    torch.save({"visual.proj": Hostile()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"open_clip_pytorch_model\.bin: the weights cannot be read safely"):
        load_any(folder)
    assert not witness.exists()


def test_weights_file_gets_the_vocabulary_of_openai(workspace):
    card = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    torch.manual_seed(3)
    theirs = open_clip.model.CLIP(**card).eval()
    torch.save(theirs.state_dict(), workspace / "ViT.pt")
    loaded = load_any(workspace / "ViT.pt")
    texts = ["a cat", "a dog and its ball"]
    with torch.no_grad():
        expected = theirs.encode_text(open_clip.tokenizer.SimpleTokenizer()(texts))
        torch.testing.assert_close(loaded.model.encode_text(loaded.tokenizer(texts)), expected, atol=1e-5, rtol=1e-4)
    image = Image.effect_noise((40, 36), 80).convert("RGB")
    transform = open_clip.image_transform(32, is_train=False)
    torch.testing.assert_close(loaded.preprocess(image), transform(image), atol=1e-6, rtol=0)
