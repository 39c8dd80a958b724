"""`pairmill export`: where the model may lie, what is refused, and that a failure leaves nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from dataops.snapshot import Draft
from dataops.store import FolderStore
from flows.commands.export import export
from tests.manifests import build_manifest

MAKE = """
import sys
from pathlib import Path
from training.model.checkpoint import save_model
from training.config import ModelConfig
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
tokenizer = train_tokenizer(["a red kite", "two cats"], 280, 8)
vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None}
text = {"context_length": 8, "vocab_size": tokenizer.vocab_size, "width": 16, "heads": 2, "layers": 1}
config = ModelConfig.model_validate({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text})
save_model(Path(sys.argv[1]), CLIP(config), tokenizer, Preprocess(32))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    subprocess.run([sys.executable, "-c", MAKE, str(folder)], check=True, cwd=CHECKOUT)
    return folder


def test_a_folder_and_a_snapshot_give_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FolderStore(tmp_path / "store")
    draft = Draft(store, "train", "0123456789abcdef")
    parts = [draft.put_file(path.name, path) for path in sorted(finished.iterdir())]
    draft.commit(build_manifest("train", parts, key=draft.key))
    made = {}
    for name, model in (("a", str(finished)), ("b", draft.key)):
        out = tmp_path / name
        assert export(model, "open_clip", out, tmp_path / "home", str(tmp_path / "store"), as_json=True) == 0
        said = json.loads(capsys.readouterr().out)
        assert [file["name"] for file in said["files"]] == sorted(path.name for path in out.iterdir())
        assert f"local-dir:{out}" in said["use"]
        made[name] = {path.name: path.read_bytes() for path in out.iterdir()}
    assert made["a"] == made["b"]
    assert {"open_clip_config.json", "open_clip_model.safetensors"} <= made["a"].keys()
    with pytest.raises(ConfigError, match="is not empty"):
        export(str(finished), "open_clip", tmp_path / "a", tmp_path / "home", None, as_json=True)


def test_a_refused_form_leaves_nothing(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CLIP with a ResNet"):
        export(str(finished), "hf", tmp_path / "out", tmp_path / "home", None, as_json=True)
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no such file or folder.*; nor is it the key"):
        export("fedcba9876543210", "hf", tmp_path / "out", tmp_path / "home", str(tmp_path / "store"), as_json=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        export("models:/clip/3", "hf", tmp_path / "out", tmp_path / "home", str(tmp_path / "store"), as_json=True)
