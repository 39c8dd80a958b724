"""Evaluation sets of images of one colour, and a model to evaluate on them."""

import io
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from tests.tar_files import write_tar

COLOURS = {"black": (0, 0, 0), "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
NAMES = list(COLOURS)


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_set(root, samples, split="test", classes=NAMES, templates=("{c}",)):
    """Write samples given as dictionaries of members."""
    named = [(f"s{n:03d}.{suffix}", data) for n, members in enumerate(samples) for suffix, data in members.items()]
    write_tar(root / split / "0.tar", named)
    (root / split / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(classes))
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(templates))
    return root


def shown(colour, label, **more):
    return {"png": png(COLOURS[colour]), "cls": str(NAMES.index(label)).encode(), **more}


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Visual(torch.nn.Module):
    """A tower in the shape of a ViT's end: pooled features, a norm, a projection that keeps the first colours."""

    def __init__(self, colours):
        super().__init__()
        self.ln_post, self.colours = torch.nn.Identity(), colours

    def forward(self, images):
        pooled = self.ln_post(images.mean(dim=(2, 3)) - 0.5)
        return torch.cat([pooled[:, : self.colours], torch.full((len(pooled), 1), 0.1)], dim=1)


class ColourModel(torch.nn.Module):
    """An image is its mean colour, a text the colour that it names; both as points on a sphere. Counts its images."""

    def __init__(self, colours):
        super().__init__()
        self.visual, self.colours, self.images = Visual(colours), colours, 0

    def encode_image(self, images):
        self.images += len(images)
        return self.visual(images)

    def encode_text(self, tokens):
        colours = torch.tensor(list(COLOURS.values())) / 255 - 0.5
        return torch.cat([colours[tokens[:, 0] - 1][:, : self.colours], torch.full((len(tokens), 1), 0.1)], dim=1)


def tokenize(texts):
    """Return the position, from 1, of the first colour that a text names; one that names none is read as black."""
    return torch.tensor([[next((i for i, name in enumerate(NAMES, 1) if name in text), 1)] for text in texts])


def to_tensor(image):
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def load_colours(colours=3):
    """Return a model whose answers are known by construction; it sees the first of red, green and blue."""
    return SimpleNamespace(model=ColourModel(colours), tokenizer=tokenize, preprocess=to_tensor)
