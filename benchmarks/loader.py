"""Compare our loader with open_clip's (webdataset, Pillow, torchvision), from the same shards to batches, on one core.

    python -m benchmarks.loader [--quick] [--json]

The shards contain JPEGs of quality 95 (as img2dataset writes them) with a shorter side of 256 pixels, crops of two
photographs, with captions. Both sides resize a random crop of 90 to 100% of the area (RandomResizedCrop(scale=(0.9, 1.0)),
open_clip's default) to 224 or 64 pixels, and tokenize the captions. Both run in this process without workers; its CPU time
is measured (A B A B, medians). Ours returns bytes, since it normalises on the device (in the step that benchmarks/train.py
measures). Equal crops must have nearly equal pixels (PSNR to Pillow's bicubic).

`decode 256 to N`: the same crops of the same images by spdl (FFmpeg in C++ threads, if it and FFmpeg's libraries are
installed), without shards and captions; the limit is libjpeg-turbo's decoding alone.
"""

import io
import logging
import statistics
import tempfile
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Row, decode_speed, finish, make_parser, require_peers, time_in_turn
from dataops.shards.tar import ShardWriter, format_index, read_samples

GOAL, AREA, BATCH = 4.0, (0.9, 1.0), 64


def write_shards(folder, count):
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


def read_jpegs(folder):
    """Return the images of the shards, in the loader's order."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            found += [bytes(sample["jpg"]) for _, sample in read_samples(file, path.name)]
    return found


def make_our_loader(folder, side, captions):
    """Return a function that loads all samples with our loader."""
    from training.config import TrainConfig
    from training.data.loader import Dataset, load_batches
    from training.data.sampling_plan import Plan
    from training.model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(captions, 8192, 77)
    config = TrainConfig(epochs=1, batch_size=BATCH, workers=0, crop_area=AREA)

    def run():
        dataset = Dataset(sorted(folder.glob("*.tar")), side, 0, AREA)
        count = 0
        for batch in load_batches(dataset, Plan(len(dataset), config, 0), 1, 0, 1, tokenizer):
            count += len(batch.pixels_BSS3)
        dataset.close()
        return count

    return run


def make_peer_loader(folder, side, count):
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

    def run():
        loader = data.get_wds_dataset(args, transform, is_train=True, floor=True, tokenizer=tokenizer).dataloader
        return sum(len(images) for images, _ in loader)

    return run


def crop_ours(dataset, number, draw, target):
    """Load an image with our loader, and write its crop; return the crop as shares of the image."""
    from training.data import decode

    pixels = dataset.load(number)[0]
    crop = decode.draw_crop(*pixels.shape[:2], AREA, draw)
    decode.write_crop(pixels, crop, target)
    return np.array(crop) / np.tile(pixels.shape[:2], 2)


def compute_psnr(crop, image, box):
    """Return the PSNR of a square crop to that of Pillow's bicubic, in dB."""
    expected = np.asarray(image.resize(crop.shape[:2], Image.Resampling.BICUBIC, box=box), np.float64)
    return 10 * np.log10(255**2 / max(np.mean((crop - expected) ** 2), 1e-9))


def compare_crops(folder, side):
    """Compare the pixels of equal crops; their distributions are compared in tests/unit/training/data/test_decode.py."""
    from training.data import decode as images
    from training.data.keyed_random import draw_uniforms
    from training.data.loader import Dataset

    draws = draw_uniforms("crop", 0, 0, np.arange(50), images.DRAWS)
    dataset = Dataset(sorted(folder.glob("*.tar")), side, 0, AREA)
    psnr = []
    for sample, u in enumerate(draws):
        whole = Image.open(io.BytesIO(dataset._image(sample))).convert("RGB")
        found = np.empty((side, side, 3), np.uint8)
        top, left, height, width = crop_ours(dataset, sample, u, found) * np.tile([whole.height, whole.width], 2)
        psnr.append(compute_psnr(found, whole, (left, top, left + width, top + height)))
    dataset.close()
    return {"median_psnr": statistics.median(psnr), "least_psnr": min(psnr)}


def compare_with_spdl(folder, side, count, times):
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

    def ours():
        for number, u in enumerate(draws):
            crop_ours(dataset, number, u, mine[number])

    def peer():
        for number, (top, left, height, width) in enumerate(crops):
            crop = f"crop={width}:{height}:{left}:{top}:exact=1,{scaled}"
            frames = spdl.io.decode_packets(spdl.io.demux_image(files[number]), filter_desc=crop)
            theirs[number] = spdl.io.to_numpy(spdl.io.convert_frames(frames)).reshape(side, side, 3)

    a, b, *_ = time_in_turn(ours, peer, times, time.process_time)
    limit = decode_speed(files)
    dataset.close()
    psnr = {"ours": [], "spdl": []}
    for number, (top, left, height, width) in enumerate(crops[:200]):
        box = (left, top, left + width, top + height)
        image = Image.open(io.BytesIO(files[number])).convert("RGB")
        psnr["ours"].append(compute_psnr(mine[number], image, box))
        psnr["spdl"].append(compute_psnr(theirs[number], image, box))
    row = Row(f"decode 256 to {side}", count / a, count / b, "spdl", "images/s/core", 1.0, limit)
    return row, {name: round(statistics.median(values), 1) for name, values in psnr.items()}


def main():
    """Run the benchmark."""
    import torch

    options = make_parser(__doc__).parse_args()
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
            ends = {
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
                details[row.case] = {"median_psnr": psnr["ours"], "psnr_of_spdl": psnr["spdl"]}
    equal = all(d["median_psnr"] > 28 for d in details.values())
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
    raise SystemExit(main())
