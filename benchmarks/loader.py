"""Compare our loader with open_clip's (webdataset, Pillow, torchvision), from the same shards to batches, on one core.

    python -m benchmarks.loader [--quick] [--json]

The shards contain JPEGs of quality 95 (as img2dataset writes them) with a shorter side of 256 pixels, crops of two
photographs, with captions. Both sides resize a random crop of 90 to 100% of the area (RandomResizedCrop(scale=(0.9, 1.0)),
open_clip's default) to 224 or 64 pixels, and tokenize the captions. Both run in this process without workers; its CPU time
is measured (A B A B, medians). Ours returns bytes, since it normalises on the device (in the step that benchmarks/train.py
measures). The positions, areas and aspect ratios of the crops
must have equal distributions (Kolmogorov-Smirnov), and equal crops nearly equal pixels (PSNR to Pillow's bicubic).

`decode 256 to N`: the same crops of the same images by spdl (FFmpeg in C++ threads, if it and FFmpeg's libraries are
installed), without shards and captions; the limit is libjpeg-turbo's decoding alone.
"""

import io
import logging
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Row, decode_speed, finish, make_parser, require_peers, time_in_turn
from dataops.shards.tar import ShardWriter, format_index, read_samples

GOAL, AREA, BATCH = 4.0, (0.9, 1.0), 64


def write_shards(folder: Path, count: int) -> list[str]:
    """Write two shards with their indexes; return the captions."""
    from sklearn.datasets import load_sample_images

    from benchmarks.inputs.rows import make_texts

    captions = make_texts(np.arange(count, dtype=np.uint64), 30, 8, 0.75, 80, language=0).to_list()
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
                crop = Image.fromarray(photo[top : top + shape[0], left : left + shape[1]]).resize((width, height))
                sink = io.BytesIO()
                crop.save(sink, "JPEG", quality=95)
                members = {"jpg": sink.getvalue(), "txt": captions[number].encode(), "json": b"{}"}
                index.append(writer.write(f"{number:08d}", members))
            writer.close()
        (folder / f"{shard:05d}.idx").write_text(format_index(index))
    return captions


def read_jpegs(folder: Path) -> list[bytes]:
    """Return the images of the shards, in the loader's order."""
    found = list[bytes]()
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            found += [bytes(sample["jpg"]) for _, sample in read_samples(file, path.name)]
    return found


def make_our_loader(folder: Path, side: int, captions: list[str]) -> Callable[[], int]:
    """Return a function that loads all samples with our loader."""
    from training.config import TrainConfig
    from training.data.loader import Dataset, load_batches
    from training.data.sampling_plan import Plan
    from training.model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(captions, 8192, 77)
    config = TrainConfig(epochs=1, batch_size=BATCH, workers=0, crop_area=AREA)

    def run() -> int:
        dataset = Dataset(sorted(folder.glob("*.tar")), side, 0, AREA)
        count = 0
        for batch in load_batches(dataset, Plan(len(dataset), config, 0), 1, 0, 1, tokenizer):
            count += len(batch.pixels_BSS3)
        dataset.close()
        return count

    return run


def make_peer_loader(folder: Path, side: int, count: int) -> Callable[[], int]:
    """Return a function that loads all samples with open_clip's loader, transform and tokenizer."""
    from functools import partial

    import open_clip
    from open_clip_train import data

    # open_clip's grouping fails on the marker between shards that webdataset 0.2.111 adds: disable it.
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


def compute_psnr(crop: np.ndarray, image: Image.Image, box: tuple[float, float, float, float]) -> float:
    """Return the PSNR of a square crop to that of Pillow's bicubic, in dB."""
    expected = np.asarray(image.resize(crop.shape[:2], Image.Resampling.BICUBIC, box=box), np.float64)
    return 10 * np.log10(255**2 / max(np.mean((crop - expected) ** 2), 1e-9))


def compare_crops(folder: Path, side: int) -> dict[str, float]:
    """Compare the distributions of crops, and the pixels of equal crops."""
    import torch
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    from training.data import decode as images
    from training.data.keyed_random import draw_uniforms
    from training.data.loader import Dataset

    torch.manual_seed(0)
    height, width, number = 256, 300, 4000
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(AREA), list(images.ASPECT)) for _ in range(number)])
    draws = draw_uniforms("crop", 0, 0, np.arange(number), images.DRAWS)
    mine = np.array([images.draw_crop(height, width, AREA, u) for u in draws])
    distances = {
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
        top, left, h, w = images.draw_crop(*pixels.shape[:2], AREA, u)
        scale_y, scale_x = whole.height / pixels.shape[0], whole.width / pixels.shape[1]
        box = (left * scale_x, top * scale_y, (left + w) * scale_x, (top + h) * scale_y)
        found = np.empty((side, side, 3), np.uint8)
        images.write_crop(pixels, (top, left, h, w), found)
        psnr.append(compute_psnr(found, whole, box))
    dataset.close()
    return {"greatest_ks": max(distances.values()), "median_psnr": statistics.median(psnr), "least_psnr": min(psnr)}


def compare_with_spdl(folder: Path, side: int, count: int, times: int) -> tuple[Row, dict[str, float]]:
    """Compare decoding and cropping with spdl's; return the row, and the median PSNR of each to Pillow's bicubic."""
    import simplejpeg
    import spdl.io

    from training.data import decode as images
    from training.data.keyed_random import draw_uniforms
    from training.data.loader import Dataset

    dataset = Dataset(sorted(folder.glob("*.tar")), side, 0, AREA)
    files = read_jpegs(folder)[:count]
    draws = draw_uniforms("crop", 0, 0, np.arange(count), images.DRAWS)
    shapes = [simplejpeg.decode_jpeg_header(data)[:2] for data in files]
    crops = [images.draw_crop(*shape, AREA, u) for shape, u in zip(shapes, draws, strict=True)]
    scaled = f"scale={side}:{side}:flags=bicubic,format=pix_fmts=rgb24"
    mine, theirs = (np.empty((count, side, side, 3), np.uint8) for _ in range(2))

    def ours() -> None:
        for number, u in enumerate(draws):
            loaded = dataset.load(number)
            assert isinstance(loaded, tuple)
            images.write_crop(loaded[0], images.draw_crop(*loaded[0].shape[:2], AREA, u), mine[number])

    def peer() -> None:
        for number, (top, left, height, width) in enumerate(crops):
            crop = f"crop={width}:{height}:{left}:{top}:exact=1,{scaled}"
            frames = spdl.io.decode_packets(spdl.io.demux_image(files[number]), filter_desc=crop)
            theirs[number] = spdl.io.to_numpy(spdl.io.convert_frames(frames)).reshape(side, side, 3)

    a, b, *_ = time_in_turn(ours, peer, times, time.process_time)
    limit = decode_speed(files)
    dataset.close()
    psnr: dict[str, list[float]] = {"ours": [], "spdl": []}
    for number, (top, left, height, width) in enumerate(crops[:200]):
        box = (left, top, left + width, top + height)
        image = Image.open(io.BytesIO(files[number])).convert("RGB")
        psnr["ours"].append(compute_psnr(mine[number], image, box))
        psnr["spdl"].append(compute_psnr(theirs[number], image, box))
    row = Row(f"decode 256 to {side}", count / a, count / b, "spdl", "images/s/core", 1.0, limit)
    return row, {name: round(statistics.median(values), 1) for name, values in psnr.items()}


def main() -> int:
    """Run the benchmark."""
    import torch

    options = make_parser(__doc__ or "").parse_args()
    require_peers("open_clip", "open_clip_train", "torchvision", "webdataset")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    count, times = (640, 3) if options.quick else (2560, 5)
    rows, details = [], {}
    with tempfile.TemporaryDirectory(prefix="pairmill-loader-") as name:
        folder = Path(name)
        captions = write_shards(folder, count)
        jpegs = read_jpegs(folder)
        for side in (224, 64):
            ends: dict[str, Any] = {
                "ours": make_our_loader(folder, side, captions),
                "peer": make_peer_loader(folder, side, count),
            }
            warm = [run() for run in ends.values()]
            mine, theirs, *counts = time_in_turn(ends["ours"], ends["peer"], times, time.process_time)
            case = f"loader 256 to {side}"
            details[case] = compare_crops(folder, side)
            assert warm == counts == [count, count]
            limit = decode_speed(jpegs)
            rows.append(Row(case, count / mine, count / theirs, "open_clip 3.3", "images/s/core", GOAL, limit))
        for side in (64, 224, 336):
            with suppress(ImportError, RuntimeError):  # it, or FFmpeg's libraries, are not installed
                row, psnr = compare_with_spdl(folder, side, count // 4, times)
                rows.append(row)
                details[row.case] = {"greatest_ks": 0.0, "median_psnr": psnr["ours"], "psnr_of_spdl": psnr["spdl"]}
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
