"""A small finished model, built in a subprocess: the test process, like the orchestrator, never imports torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from dataops.home import CHECKOUT

BUILD = """
import sys
from pathlib import Path
from training.model.checkpoint import save_model
from training.model_config import ModelConfig
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
tokenizer = train_tokenizer(["a red kite", "two cats"], 280, 8)
vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None}
text = {"context_length": 8, "vocab_size": tokenizer.vocab_size, "width": 16, "heads": 2, "layers": 1}
config = ModelConfig.model_validate({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text})
save_model(Path(sys.argv[1]), CLIP(config), tokenizer, Preprocess(32))
"""


@pytest.fixture(scope="package")
def finished_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished model with a ResNet."""
    folder = tmp_path_factory.mktemp("finished")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], check=True, cwd=CHECKOUT)
    return folder
