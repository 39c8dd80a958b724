"""Evaluation sets of images of one colour, and a model to evaluate on them."""

import io
import tarfile

import torch
from PIL import Image

from training.model.checkpoint import save_model
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
from training.model_config import ModelConfig, TextConfig, VisionConfig

COLOURS = {"black": (0, 0, 0), "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
NAMES = list(COLOURS)


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_set(root, samples, split="test", classes=NAMES, templates=("{c}",)):
    """Write samples given as dictionaries of members."""
    (root / split).mkdir(parents=True)
    with tarfile.open(root / split / "0.tar", "w") as tar:
        for number, members in enumerate(samples):
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"s{number:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (root / split / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(classes))
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(templates))
    return root


def shown(colour, label, **more):
    return {"png": png(COLOURS[colour]), "cls": str(NAMES.index(label)).encode(), **more}


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_checkpoint(folder):
    """Write a small model with random weights."""
    folder.mkdir()
    tokenizer = train_tokenizer(list(COLOURS), 280, 16)
    text = TextConfig(context_length=16, vocab_size=tokenizer.vocab_size, width=16, heads=2, layers=1)
    vision = VisionConfig(image_size=32, layers=(1, 1, 1, 1), width=8, head_width=16, patch_size=None)
    torch.manual_seed(0)
    save_model(folder, CLIP(ModelConfig(embed_dim=16, vision_cfg=vision, text_cfg=text)), tokenizer, Preprocess(32))
    return folder
