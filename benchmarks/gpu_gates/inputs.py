"""Models, batches and shards of the stages. Captions and images of a pair share a class, so that a model can learn.

Nothing is downloaded; images are blocks of colours with noise.
"""

import json

import numpy as np
import torch
from PIL import Image

from benchmarks.inputs.images import encode_jpeg
from dataops.shards.tar import ShardWriter, format_index
from training.data.loader import Batch
from training.loop.inputs import InputMaker

TOY_TEXT = {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}
TOYS = {
    "vit": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None},
}
CLASSES, BLOCKS = 64, 8
DISTINCT_IMAGES = 500


def choose_model(setting, name):
    """Return the model of a stage: a published one, or on a CPU a toy with the same kind of image tower."""
    if not setting.is_toy:
        return name
    tower = "resnet" if name.startswith("RN") else "vit"
    path = setting.folder / f"{tower}.json"
    if not path.exists():  # another rank may read it
        path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": TOYS[tower], "text_cfg": TOY_TEXT}))
    return str(path)


DISTINCT_BATCHES = 8


def make_batch(dimensions, pairs, step):
    """Return one of a few batches, whose images and captions show random classes."""
    rng = np.random.default_rng([1, step % DISTINCT_BATCHES])
    classes_B = rng.integers(CLASSES, size=pairs)
    side, text = dimensions.vision_cfg.image_size, dimensions.text_cfg
    colours_CNN3 = np.random.default_rng(0).integers(256, size=(CLASSES, BLOCKS, BLOCKS, 3))
    column_S = np.arange(side) * BLOCKS // side
    noise = rng.integers(-40, 40, size=(side, side, 3))
    pixels_CSS3 = np.clip(colours_CNN3[:, column_S][:, :, column_S] + noise, 0, 255).astype(np.uint8)
    tokens = torch.zeros(pairs, text.context_length, dtype=torch.int64)
    # Captions of the web have a median of about twelve tokens.
    lengths = np.clip(np.exp(rng.normal(2.5, 0.6, pairs)), 4, text.context_length).astype(int)
    for row, (label, length) in enumerate(zip(classes_B, lengths, strict=True)):
        tokens[row, 1 : length - 1] = torch.from_numpy(rng.integers(CLASSES + 1, text.vocab_size - 2, length - 2))
        tokens[row, :2] = torch.tensor([text.vocab_size - 2, int(label) + 1])
        tokens[row, length - 1] = text.vocab_size - 1
    return Batch(step, 0, np.arange(pairs), pixels_CSS3[classes_B], ["a"] * pairs, [], tokens)


def make_inputs(config, dimensions, pairs, step, *, pin=False):
    """Return the inputs that the trainer would make of a batch, on the CPU."""
    return InputMaker(config, dimensions, 0, 1000, pin)(make_batch(dimensions, pairs, step))


def write_shards(folder, count, side):
    """Write shards of 1,000 JPEGs with captions, unless they are there; return their paths.

    Args:
        side: shorter side of the images, in pixels.
    """
    folder = folder / f"shards-{count}-{side}"
    paths = [folder / f"{shard:05d}.tar" for shard in range(-(-count // 1000))]
    if folder.exists():
        return paths
    part = folder.with_suffix(".part")
    part.mkdir(exist_ok=True)
    images = [make_jpeg(number, side) for number in range(min(count, DISTINCT_IMAGES))]
    for shard, path in enumerate(paths):
        with (part / path.name).open("wb") as file:
            writer, index = ShardWriter(file), []
            for number in range(shard * 1000, min(count, (shard + 1) * 1000)):
                members = {"jpg": images[number % len(images)], "txt": make_caption(number).encode(), "json": b"{}"}
                index.append(writer.write(f"{number:08d}", members))
            writer.close()
        (part / path.with_suffix(".idx").name).write_text(format_index(index))
    part.rename(folder)
    return paths


def make_jpeg(number, side):
    """Return a JPEG of quality 90 with coarse and fine structure, a third wider than high."""
    rng, size = np.random.default_rng([2, number]), (side * 4 // 3, side)
    coarse, fine = (Image.fromarray(rng.integers(256, size=(n, n, 3), dtype=np.uint8)) for n in (6, max(side // 8, 6)))
    return encode_jpeg(Image.blend(coarse.resize(size), fine.resize(size), 0.3), 90)


def make_caption(number):
    """Return a caption of one to fifteen words and the number of its image."""
    words = np.random.default_rng([3, number]).integers(CLASSES, size=1 + number % 15)
    return " ".join([*(f"word{word}" for word in words), str(number % DISTINCT_IMAGES)])


def write_job(setting, name, shards, **train):
    """Write a job file with this output; return its path."""
    output = setting.folder / name
    table = {"device": setting.device, "workers": 1 if setting.is_toy else 8, "log_every": 1, "max_spike": 0, **train}
    job = {"train": table, "shards": [str(shard) for shard in shards], "output": str(output)}
    path = setting.folder / f"{name}.json"
    path.write_text(json.dumps(job))
    return path
