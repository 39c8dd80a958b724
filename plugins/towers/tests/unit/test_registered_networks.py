"""A registered model holds the code of its networks, and finds them without an installation of pairmill."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plugins.towers.tests.made_towers import write_bert
from tasks.models.packaging import copy_code
from training.model.checkpoint import load_model, save_model
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.pretrained_tokenizer import load_tower_tokenizer
from training.model_config import ModelConfig

LOAD = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
sys.path.insert(0, sys.argv[2])
import importlib.metadata
importlib.metadata.distributions = lambda **_: ()
import torch
from training.model.checkpoint import load_model
model = load_model(Path(sys.argv[3])).model
modules = [module for name, module in sys.modules.items() if name.split(".")[0] in ("training", "dataops", "plugins")]
assert all(module.__file__.startswith(sys.argv[2]) for module in modules)
names = sorted(module.__name__ for module in modules if module.__name__.startswith("plugins.towers.networks."))
print(*names, model.encode_image(torch.ones(1, 3, 32, 32)).sum().item())
"""


def test_copied_code_loads_a_model_with_pretrained_towers(tmp_path):
    write_bert(tmp_path / "bert")
    image = {"kind": "backbone", "architecture": "resnet18", "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    text = {"kind": "bert", "context_length": 16, "vocab_size": 30, "width": 8, "heads": 2}
    text |= {"layers": 1, "mlp_width": 12}
    config = ModelConfig.model_validate({"embed_dim": 8, "vision_cfg": image, "text_cfg": text})
    tokenizer = load_tower_tokenizer(tmp_path / "bert" / "tokenizer.json", config.text_cfg)
    save_model(tmp_path, CLIP(config), tokenizer, Preprocess(32))
    copied = copy_code((tmp_path / "model.json").read_text(), tmp_path / "code")
    assert "plugins/towers/networks/vit.py" not in copied.files
    assert not [name for name in copied.packages if name in ("timm", "transformers")]
    site = Path(torch.__file__).parents[1]
    command = [sys.executable, "-I", "-S", "-c", LOAD, str(site), str(tmp_path / "code"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *names, total = done.stdout.split()
    assert [name.rpartition(".")[2] for name in names] == ["bert", "pooling", "resnet"]
    here = load_model(tmp_path).model.encode_image(torch.ones(1, 3, 32, 32)).sum().item()
    assert float(total) == pytest.approx(here, rel=1e-4)
