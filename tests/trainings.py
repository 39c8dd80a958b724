"""Tiny real shards, models and jobs of training, for the tests of training and of the plugins that change it.

Functions import torch themselves: it takes three seconds, and many tests train in processes of their own.
"""

import gc
import io
import json
import os
import signal
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dataops.schema import CURATED
from dataops.shards.tar import ShardWriter, format_index
from dataops.snapshot import Counts, Draft
from tests.manifests import build_manifest
from tests.tar_files import write_tar

RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None},
    "text_cfg": {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2},
}
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2},
}
TOWERS = {"resnet": RESNET, "vit": VIT}


def jpeg(number, size=(40, 36)):
    pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG")
    return buffer.getvalue()


def pairs(first, count):
    colours = ("red", "green", "blue", "pale")
    members = []
    for number in range(first, first + count):
        key = f"{number:06d}"
        members += [(f"{key}.jpg", jpeg(number)), (f"{key}.txt", f"a {colours[number % 4]} thing {number}".encode())]
        members += [(f"{key}.json", b"{}")]
    return members


def packed(draft, shards, pairs_each, removed=()):
    """Write the parts of a dataset as the pack stage does; every third pair is drawn in half of the epochs."""
    parts = []
    for shard in range(shards):
        file, index, rows = io.BytesIO(), [], []
        writer = ShardWriter(file)
        for number in sorted({*range(shard * pairs_each, (shard + 1) * pairs_each)} - {*removed}):
            key, caption = f"{number:032x}", f"thing {number}"
            row = {"uid": key, "sampling_probability": None if number % 3 else 0.5}
            members = {"jpg": jpeg(number), "txt": caption.encode(), "json": json.dumps(row).encode()}
            index.append(writer.write(key, members))
            rows.append({**row, "key": key, "caption": caption})
        writer.close()
        columns = [CURATED.field(name) for name in ("key", "uid", "caption", "sampling_probability")]
        parts += [
            draft.put_bytes(f"{shard:05d}.tar", file.getvalue(), len(rows)),
            draft.put_bytes(f"{shard:05d}.idx", format_index(index).encode(), len(rows)),
            draft.put_table(f"part-{shard:05d}.parquet", pa.Table.from_pylist(rows, schema=pa.schema(columns))),
        ]
    return parts


def dataset(store):
    draft = Draft(store, "pack", "a" * 16)
    parts = packed(draft, 6, 4)
    return build_manifest("pack", parts, key=draft.key, counts=Counts(input=24, kept=24))


@pytest.fixture
def shards(tmp_path):
    """Write two shards with 25 pairs in all."""
    return [
        write_tar(tmp_path / "00000.tar", pairs(0, 13)),
        write_tar(tmp_path / "00001.tar", pairs(13, 12)),
    ]


@pytest.fixture
def sampled_shards(shards):
    """Write the same pairs; every second one is drawn in about half of the epochs."""
    for path, (first, count) in zip(shards, [(0, 13), (13, 12)], strict=True):
        members = dict(pairs(first, count))
        members |= {f"{number:06d}.json": b'{"sampling_probability":0.5}' for number in range(first, first + count, 2)}
        write_tar(path, members)
    return shards


@pytest.fixture
def make_job(tmp_path, shards):
    """Return a function that writes JOB.json for a tiny model; its keywords go into the `[train]` table."""

    def make(output, tower="vit", seed=0, **train):
        model = tmp_path / f"{tower}.json"
        model.write_text(json.dumps(TOWERS[tower]))
        settings = {
            "model": str(model),
            "epochs": 4,
            "batch_size": 10,
            "lr": 1e-3,
            "vocab_size": 300,
            "precision": "fp32",
            "threads": 1,
            "workers": 1,
            "device": "cpu",
        }
        job = {
            "train": {**settings, **train},
            "seed": seed,
            "shards": [str(shard) for shard in shards],
            "output": str(tmp_path / output),
        }
        path = tmp_path / f"{output}.job.json"
        path.write_text(json.dumps(job))
        return path

    return make


@pytest.fixture
def process_state():
    """Restore what a training changes in its process."""
    import torch

    threads, handler, seconds = torch.get_num_threads(), signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    yield
    sys.setswitchinterval(seconds)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    signal.signal(signal.SIGTERM, handler)


@cache
def load_compiler():
    """Import what the first training imports, and leave it out of the garbage collection of each training."""
    import_module("torch._dynamo")
    gc.freeze()


def run_training(job):
    """Run a job in this process, and return its exit code."""
    from training.train import main

    load_compiler()
    return main([str(job)])


def output_of(job):
    return Path(json.loads(job.read_text())["output"])


def rows_of(job):
    return [json.loads(line) for line in (output_of(job) / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def suite(tmp_path):
    """Return two tasks with four and three images, in the form of a job file."""
    for name, labels in {"colours": (0, 1, 2, 3), "few": (1, 1, 0)}.items():
        root = tmp_path / name
        (root / "test").mkdir(parents=True)
        members = [(f"s{i}.jpg", jpeg(i)) for i in range(len(labels))]
        members += [(f"s{i}.cls", str(label).encode()) for i, label in enumerate(labels)]
        write_tar(root / "test" / "0.tar", sorted(members))
        (root / "test" / "nshards.txt").write_text("1")
        (root / "classnames.txt").write_text("red\ngreen\nblue\npale")
        (root / "zeroshot_classification_templates.txt").write_text("a {c} thing")
    tasks = [{"name": name, "kind": "classification", "root": str(tmp_path / name)} for name in ("colours", "few")]
    return {"name": "small", "tasks": tasks}


def with_suite(job, suite):
    job.write_text(json.dumps({**json.loads(job.read_text()), "suite": suite}))
    return job


def outputs_of(job):
    from training.train import OUTPUTS

    return {name: (output_of(job) / name).read_bytes() for name in OUTPUTS}


def before_step(monkeypatch, act):
    """Call a function with the run before each step of the jobs that follow."""
    from training import train

    launch = train.launch_step

    def call(run, *arguments):
        act(run)
        return launch(run, *arguments)

    monkeypatch.setattr(train, "launch_step", call)


def stop_at(step):
    """Send SIGTERM in a step: the job ends after it."""

    def stop(run):
        if run.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def make_batch(pairs, kept):
    """Return images, texts of other lengths for each number of pairs, and kept patches."""
    import torch

    from training.model.packing import pack_texts

    generator = torch.Generator().manual_seed(pairs)
    tokens = torch.randint(1, 299, (pairs, 16), generator=generator)
    tokens[torch.arange(pairs), torch.randint(2, 16, (pairs,), generator=generator)] = 299
    kept_BK = None if kept is None else torch.arange(kept).repeat(pairs, 1)
    return torch.randn(pairs, 3, 32, 32, generator=generator), pack_texts(tokens), kept_BK


def without_cosines(row):
    """Leave out the cosines, which are means over a rank's own pairs."""
    return {name: value for name, value in row.items() if "cosine" not in name}


def assert_same_training(one, two):
    """Compare to rounding, so both saw the same samples, each once an epoch, in the same steps."""
    import torch
    from safetensors.torch import load_file

    assert len(rows_of(one)) == len(rows_of(two))
    for expected, row in zip(rows_of(one), rows_of(two), strict=True):
        assert without_cosines(row) == pytest.approx(without_cosines(expected), rel=1e-3)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    expected, weights = (load_file(output_of(job) / "model.safetensors") for job in (one, two))
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def png(size):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
