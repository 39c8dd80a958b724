"""Models, batches and shards of the stages. Captions and images of a pair share a class, so that a model can learn.

Nothing is downloaded; images are blocks of colours with noise.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.gpu_gates.outcomes import Setting
from dataops.shards.tar import ShardWriter, format_index
from training.config import TrainConfig
from training.data.loader import Batch
from training.loop.inputs import InputMaker, StepInputs
from training.model_config import ModelConfig

TOY_TEXT = {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}
TOYS = {
    "vit": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None},
}
CLASSES, BLOCKS = 64, 8
DISTINCT_IMAGES = 500
WORDS = (
    "red",
    "green",
    "blue",
    "old",
    "small",
    "house",
    "tree",
    "boat",
    "on",
    "the",
    "hill",
    "at",
    "night",
    "in",
    "snow",
)


def choose_model(setting: Setting, name: str) -> str:
    """Return the model of a stage: a published one, or on a CPU a toy with the same kind of image tower."""
    if not setting.is_toy:
        return name
    tower = "resnet" if name.startswith("RN") else "vit"
    path = setting.folder / f"{tower}.json"
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": TOYS[tower], "text_cfg": TOY_TEXT}))
    return str(path)


DISTINCT_BATCHES = 8


def make_batch(setting: Setting, dimensions: ModelConfig, pairs: int, step: int) -> Batch:
    """Return one of a few batches, which are made once for all stages, with another number."""
    side, text = dimensions.vision_cfg.image_size, dimensions.text_cfg
    number = step % DISTINCT_BATCHES
    path = setting.folder / f"batch-{side}-{text.context_length}-{text.vocab_size}-{pairs}-{number}.safetensors"
    if not path.exists():
        made = draw_batch(dimensions, pairs, number)
        assert made.tokens_BL is not None
        part = path.with_suffix(f".part-{os.getpid()}")
        save_file({"pixels": torch.from_numpy(made.pixels_BSS3).contiguous(), "tokens": made.tokens_BL}, part)
        part.rename(path)
    read = load_file(path)
    return Batch(step, 0, np.arange(pairs), read["pixels"].numpy(), ["a"] * pairs, [], read["tokens"])


def draw_batch(dimensions: ModelConfig, pairs: int, step: int) -> Batch:
    """Return a batch whose images and captions show random classes, a function of the step."""
    rng = np.random.default_rng([1, step])
    classes_B = rng.integers(CLASSES, size=pairs)
    side, text = dimensions.vision_cfg.image_size, dimensions.text_cfg
    colours_CNN3 = np.random.default_rng(0).integers(256, size=(CLASSES, BLOCKS, BLOCKS, 3))
    column_S = np.arange(side) * BLOCKS // side
    noise = rng.integers(-40, 40, size=(side, side, 3))
    pixels = np.clip(colours_CNN3[classes_B][:, column_S][:, :, column_S] + noise, 0, 255).astype(np.uint8)
    tokens = torch.zeros(pairs, text.context_length, dtype=torch.int64)
    # Captions of the web have a median of about twelve tokens.
    lengths = np.clip(np.exp(rng.normal(2.5, 0.6, pairs)), 4, text.context_length).astype(int)
    for row, (label, length) in enumerate(zip(classes_B, lengths, strict=True)):
        tokens[row, 1 : length - 1] = torch.from_numpy(rng.integers(CLASSES + 1, text.vocab_size - 2, length - 2))
        tokens[row, :2] = torch.tensor([text.vocab_size - 2, int(label) + 1])
        tokens[row, length - 1] = text.vocab_size - 1
    return Batch(step, 0, np.arange(pairs), pixels, ["a"] * pairs, [], tokens)


def make_inputs(
    setting: Setting, config: TrainConfig, dimensions: ModelConfig, pairs: int, step: int, *, pin: bool = False
) -> StepInputs:
    """Return the inputs that the trainer would make of a batch, on the CPU."""
    return InputMaker(config, dimensions, 0, 1000, pin)(make_batch(setting, dimensions, pairs, step))


def load_dimensions(config: TrainConfig) -> ModelConfig:
    """Return the dimensions of a config's model."""
    return config.load_dimensions()


def write_shards(folder: Path, count: int, side: int) -> list[Path]:
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


def make_jpeg(number: int, side: int) -> bytes:
    """Return a JPEG of quality 90 with coarse and fine structure, a third wider than high."""
    rng, sink = np.random.default_rng([2, number]), io.BytesIO()
    size = (side * 4 // 3, side)
    coarse, fine = (Image.fromarray(rng.integers(256, size=(n, n, 3), dtype=np.uint8)) for n in (6, max(side // 8, 6)))
    Image.blend(coarse.resize(size), fine.resize(size), 0.3).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def make_caption(number: int) -> str:
    """Return a caption of one to fifteen words and the number of its image."""
    rng = np.random.default_rng([3, number])
    words = [WORDS[i] for i in rng.integers(len(WORDS), size=1 + number % 15)]
    return " ".join([*words, str(number % DISTINCT_IMAGES)])


def write_job(setting: Setting, name: str, shards: list[Path], **train: Any) -> Path:
    """Write a job file with this output; return its path."""
    output = setting.folder / name
    table = {"device": setting.device, "workers": 1 if setting.is_toy else 8, "log_every": 1, "max_spike": 0, **train}
    job = {"train": table, "shards": [str(shard) for shard in shards], "output": str(output)}
    path = setting.folder / f"{name}.json"
    path.write_text(json.dumps(job))
    return path
