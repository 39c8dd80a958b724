"""Our loader against open_clip's own (webdataset, Pillow, torchvision), from the same shards to batches, on one core.

    python -m benchmarks.loader [--quick] [--json]

The shards hold JPEGs of quality 95 (what img2dataset writes) whose shorter side has 256 pixels, crops of two photographs,
with captions. Both sides take a random part of 90 to 100% of the area (RandomResizedCrop(scale=(0.9, 1.0)), open_clip's
default) to 224 or 64 pixels and make tokens of the captions. Both work in this process without workers; what counts is its
processor time, A B A B, medians. Ours ends with bytes, since it normalises on the device (within the step that
benchmarks/train.py measures); `with_normalising` has the ratio with that done here. Checked: places, shares and aspects of
the parts have one distribution (Kolmogorov-Smirnov), and the same part has nearly the same pixels (PSNR against Pillow's
bicubic). `share_of_tokens` is the part of our loader's time that goes into tokens.
"""

import io
import logging
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Row, arguments, finish, in_turn
from dataops.shards.tar import ShardWriter, format_index

GOAL, AREA, BATCH = 4.0, (0.9, 1.0), 64


def make_shards(folder: Path, count: int) -> list[str]:
    """Two shards with their indexes; returns the captions."""
    from sklearn.datasets import load_sample_images

    from benchmarks.inputs.rows import text_of

    captions = text_of(np.arange(count, dtype=np.uint64), 30, 8, 0.75, 80, language=0).to_list()
    photos, rng = load_sample_images().images, np.random.default_rng(0)
    for shard in range(2):
        index = []
        with (folder / f"{shard:05d}.tar").open("wb") as file:
            writer = ShardWriter(file)
            for number in range(shard, count, 2):
                photo = photos[number // 2 % len(photos)]
                shape = rng.integers(256, [428, 428])
                top, left = (int(rng.integers(e - s + 1)) for e, s in zip(photo.shape[:2], shape, strict=True))
                height, width = (round(256 * s / min(shape)) for s in shape)
                taken = Image.fromarray(photo[top : top + shape[0], left : left + shape[1]]).resize((width, height))
                sink = io.BytesIO()
                taken.save(sink, "JPEG", quality=95)
                members = {"jpg": sink.getvalue(), "txt": captions[number].encode(), "json": b"{}"}
                index.append(writer.write(f"{number:08d}", members))
            writer.close()
        (folder / f"{shard:05d}.idx").write_text(format_index(index))
    return captions


def ours(folder: Path, side: int, captions: list[str], *, normalise: bool) -> Callable[[], int]:
    """A pass over all samples by our loader."""
    import torch

    from training.config import TrainConfig
    from training.data.loader import Dataset, load_batches
    from training.data.sampling_plan import Plan
    from training.loop.step import normalize_pixels
    from training.model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(captions, 8192, 77)
    config = TrainConfig(epochs=1, batch_size=BATCH, workers=0, crop_area=AREA)

    def run() -> int:
        dataset = Dataset(sorted(folder.glob("*.tar")), side, 0, AREA)
        count = 0
        for batch in load_batches(dataset, Plan(len(dataset), config, 0), 1, 0, 1, tokenizer):
            pixels = torch.from_numpy(batch.pixels_BSS3)
            count += len(normalize_pixels(pixels) if normalise else pixels)
        dataset.close()
        return count

    return run


def share_of_tokens(folder: Path, side: int) -> float:
    """The part of the loader's processor time that tokens take, with CLIP's vocabulary, whose captions must be cleaned."""
    from training.config import TrainConfig
    from training.data.loader import Dataset, load_batches
    from training.data.sampling_plan import Plan
    from training.model.tokenizer import make_tokenizer

    tokenizer, spent = make_tokenizer("clip", [], 0, 77), [0.0]

    def timed(captions: list[str]) -> Any:
        started = time.process_time()
        tokens_BL = tokenizer(captions)
        spent[0] += time.process_time() - started
        return tokens_BL

    dataset = Dataset(sorted(folder.glob("*.tar")), side, 0, AREA)
    config = TrainConfig(epochs=1, batch_size=BATCH, workers=0, crop_area=AREA)
    started = time.process_time()
    for _ in load_batches(dataset, Plan(len(dataset), config, 0), 1, 0, 1, timed):
        pass
    dataset.close()
    return spent[0] / (time.process_time() - started)


def peer(folder: Path, side: int, count: int) -> Callable[[], int]:
    """A pass over all samples by open_clip's loader, with its own transform and tokenizer."""
    from functools import partial

    import open_clip
    from open_clip_train import data

    # open_clip's grouping does not know the mark between shards that webdataset 0.2.111 puts in: it is asked for none.
    data.tar_file_expander = partial(data.tar_file_expander, eof_value=None)
    transform = open_clip.image_transform(side, is_train=True)
    args = Namespace(
        train_data=f"{folder}/{{00000..00001}}.tar", train_num_samples=count, train_data_upsampling_factors=None,
        dataset_resampled=False, batch_size=BATCH, workers=0, world_size=1, seed=0,
    )  # fmt: skip
    tokenizer = open_clip.get_tokenizer("ViT-B-32")

    def run() -> int:
        loader = data.get_wds_dataset(args, transform, is_train=True, floor=True, tokenizer=tokenizer).dataloader
        return sum(len(images) for images, _ in loader)

    return run


def same_crops(folder: Path, side: int) -> dict[str, float]:
    """How far the parts' distributions are apart, and the pixels of equal parts."""
    import torch
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    from training.data import decode as pictures
    from training.data.keyed_random import draw_uniforms
    from training.data.loader import Dataset

    torch.manual_seed(0)
    height, width, number = 256, 300, 4000
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(AREA), list(pictures.ASPECT)) for _ in range(number)])
    draws = draw_uniforms("crop", 0, 0, np.arange(number), pictures.DRAWS)
    mine = np.array([pictures.draw_crop(height, width, AREA, u) for u in draws])
    apart = {
        name: float(ks_2samp(of(theirs), of(mine)).statistic)
        for name, of in {
            "area": lambda p: p[:, 2] * p[:, 3],
            "aspect": lambda p: p[:, 3] / p[:, 2],
            "top": lambda p: p[:, 0],
            "left": lambda p: p[:, 1],
        }.items()
    }
    dataset = Dataset(sorted(folder.glob("*.tar")), side, 0, AREA)
    psnr = []
    for sample, u in enumerate(draws[:50]):
        whole = Image.open(io.BytesIO(dataset._image(sample))).convert("RGB")
        loaded = dataset.load(sample)
        assert isinstance(loaded, tuple)
        pixels = loaded[0]
        top, left, h, w = pictures.draw_crop(*pixels.shape[:2], AREA, u)
        scale_y, scale_x = whole.height / pixels.shape[0], whole.width / pixels.shape[1]
        box = (left * scale_x, top * scale_y, (left + w) * scale_x, (top + h) * scale_y)
        expected = np.asarray(whole.resize((side, side), Image.Resampling.BICUBIC, box=box), np.float64)
        made = np.empty((side, side, 3), np.uint8)
        pictures.write_crop(pixels, (top, left, h, w), made)
        psnr.append(10 * np.log10(255**2 / max(np.mean((made - expected) ** 2), 1e-9)))
    dataset.close()
    return {"greatest_ks": max(apart.values()), "median_psnr": statistics.median(psnr), "least_psnr": min(psnr)}


def main() -> int:
    """Run the benchmark."""
    import torch

    options = arguments(__doc__ or "").parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    count, times = (640, 3) if options.quick else (2560, 5)
    rows, details = [], {}
    with tempfile.TemporaryDirectory(prefix="pairmill-loader-") as name:
        folder = Path(name)
        captions = make_shards(folder, count)
        for side in (224, 64):
            ends: dict[str, Any] = {
                "ours": ours(folder, side, captions, normalise=False),
                "peer": peer(folder, side, count),
            }
            warm = [run() for run in ends.values()]
            mine, theirs, *counts = in_turn(ends["ours"], ends["peer"], times, time.process_time)
            normalising = ours(folder, side, captions, normalise=True)
            started = time.process_time()
            normalising()
            with_normalising = time.process_time() - started
            case = f"loader 256 to {side}"
            crops = same_crops(folder, side)
            tokens = {"share_of_tokens": round(share_of_tokens(folder, side), 3)}
            details[case] = {
                **crops,
                "with_normalising": round(theirs / with_normalising, 2),
                "images": counts,
                **tokens,
            }
            assert warm == counts == [count, count]
            rows.append(Row(case, count / mine, count / theirs, "open_clip 3.3", "images/s/core", GOAL))
    equal = all(d["greatest_ks"] < 0.05 and d["median_psnr"] > 28 for d in details.values())
    packages = (
        "torch",
        "open_clip_torch",
        "webdataset",
        "torchvision",
        "pillow",
        "simplejpeg",
        "opencv-python-headless",
    )
    return finish("loader", rows, packages, equal=equal, as_json=options.json, details={"details": details})


if __name__ == "__main__":
    sys.exit(main())
