"""Timings of the loader by its threads, and of whole training jobs on JPEGs."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from statistics import median
from types import ModuleType
from typing import Any
from unittest import mock

from benchmarks.gpu_gates.inputs import choose_model, load_dimensions, write_job, write_shards
from benchmarks.gpu_gates.jobs import describe_end, run_ranks
from benchmarks.gpu_gates.outcomes import FAIL, Outcome, Setting, measured
from training.config import TrainConfig
from training.data import decode
from training.data.loader import Batch, Dataset, load_batches
from training.data.sampling_plan import Plan
from training.data.shard_files import ShardFiles
from training.model.tokenizer import Tokenizer, train_tokenizer

IMAGES, SIDE = 20_000, 256


def measure_job(setting: Setting) -> Outcome:
    """Train ViT-B-32 on JPEGs by training.train; return its own figures, without those of the first steps."""
    count, side = (64, 40) if setting.is_toy else (IMAGES, SIDE)
    sizes = (
        {"batch_size": 16, "vocab_size": 300, "threads": 1} if setting.is_toy else {"batch_size": 1000, "threads": 8}
    )
    workers = 1 if setting.is_toy else min(16, len(os.sched_getaffinity(0)))
    table = {
        "model": choose_model(setting, "ViT-B-32"),
        "epochs": 2,
        "workers": workers,
        "log_every": 2,
        "cache_bytes": 0,
    }
    path = write_job(setting, "measured", write_shards(setting.folder, count, side), **table, **sizes)
    started = time.monotonic()
    (code,) = run_ranks(setting, path)
    if code:
        return Outcome(FAIL, f"exit code {code}: {describe_end(path)}")
    lines = (path.with_suffix("") / "evidence-throughput.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines][1:]
    found = {name: median(row[name] for row in rows) for name in ("samples_per_second", "data_wait_fraction")}
    return measured(
        f"{found['samples_per_second']:,.0f} samples/s, {found['data_wait_fraction']:.0%} of the time waiting for data",
        **found,
        workers=workers,
        images=count,
        seconds_of_job=time.monotonic() - started,
    )


def measure_loader(setting: Setting) -> Outcome:
    """Load and tokenize JPEGs with 1 to 16 threads, and measure what each part of that work costs."""
    count, side, numbers = (64, 40, (1, 2)) if setting.is_toy else (IMAGES, SIDE, (1, 2, 4, 8, 16))
    shards = write_shards(setting.folder, count, side)
    config = TrainConfig(model=choose_model(setting, "ViT-B-32"), epochs=1, batch_size=16 if setting.is_toy else 500)
    dimensions = load_dimensions(config)
    dataset = Dataset(shards, dimensions.vision_cfg.image_size, 0)
    tokenizer = train_tokenizer(dataset.captions(), 300 if setting.is_toy else 8192, dimensions.text_cfg.context_length)
    rates: dict[str, float] = {}
    for workers in numbers:
        plan = Plan(len(dataset), config.model_copy(update={"workers": workers}), 0)
        steps = min(plan.total_steps, 2 + 2 * workers)  # about equal times
        batches = load_batches(dataset, plan, 1, 0, 1, tokenizer)
        started, images = time.perf_counter(), 0
        for _ in range(steps):
            images += len(next(batches).captions)
        rates[str(workers)] = images / (time.perf_counter() - started)
        batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    plan = Plan(len(dataset), config.model_copy(update={"workers": 0}), 0)
    parts = measure_parts(islice(load_batches(dataset, plan, 1, 0, 1, tokenizer), 4))
    dataset.close()
    listed = ", ".join(f"{workers} threads {rate:,.0f}" for workers, rate in rates.items())
    costs = ", ".join(f"{part} {microseconds:,.0f}" for part, microseconds in parts.items())
    message = f"images/s: {listed}; microseconds an image: {costs}"
    return measured(message, images_per_second=rates, microseconds_of_parts=parts)


@contextmanager
def timing(owner: Any, name: str, part: str, spent: dict[str, float]) -> Iterator[None]:
    """Add the CPU time of a function of this thread to a part."""
    function: Callable[..., Any] = getattr(owner, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            spent[part] += time.thread_time() - started

    with mock.patch.object(owner, name, timed):
        yield


def measure_parts(batches: Iterator[Batch], packer: ModuleType | None = None) -> dict[str, float]:
    """Return the microseconds of CPU time an image of each part of the loader in its fastest batch.

    Args:
        batches: of a loader without workers.
        packer: module whose pack_chunks the loader calls.
    """
    spent: dict[str, float] = defaultdict(float)
    found: list[dict[str, float]] = []
    next(batches)  # caches and lazy imports
    started = time.thread_time()
    with (
        timing(ShardFiles, "read", "read", spent),
        timing(decode.simplejpeg, "decode_jpeg", "decode", spent),
        timing(decode.cv2, "resize", "crop", spent),
        timing(Tokenizer, "__call__", "tokenize", spent),
        nullcontext() if packer is None else timing(packer, "pack_chunks", "pack", spent),
    ):
        for batch in batches:
            python = time.thread_time() - started - sum(spent.values())
            parts = {**spent, "python": python}
            found.append({part: 1e6 * seconds / len(batch.captions) for part, seconds in parts.items()})
            spent.clear()
            started = time.thread_time()
    fastest = min(found, key=lambda parts: sum(parts.values()))
    return {part: round(microseconds, 1) for part, microseconds in fastest.items()}
