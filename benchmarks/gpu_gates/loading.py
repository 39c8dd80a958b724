"""Timings of the loader by its threads, and of whole training jobs on JPEGs."""

import json
import os
import time
from statistics import median

from benchmarks.gpu_gates.inputs import choose_model, write_job, write_shards
from benchmarks.gpu_gates.jobs import describe_end, run_ranks
from benchmarks.gpu_gates.outcomes import FAIL, Outcome, measured
from training.config import TrainConfig
from training.data.loader import Dataset, load_batches
from training.data.sampling_plan import Plan
from training.model.tokenizer import train_tokenizer

IMAGES, SIDE = 20_000, 256


def measure_job(setting):
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


def measure_loader(setting):
    """Load and tokenize JPEGs with 1 to 16 threads."""
    count, side, numbers = (64, 40, (1, 2)) if setting.is_toy else (IMAGES, SIDE, (1, 2, 4, 8, 16))
    shards = write_shards(setting.folder, count, side)
    config = TrainConfig(model=choose_model(setting, "ViT-B-32"), epochs=1, batch_size=16 if setting.is_toy else 500)
    dimensions = config.load_dimensions()
    dataset = Dataset(shards, dimensions.vision_cfg.image_size, 0)
    tokenizer = train_tokenizer(dataset.captions(), 300 if setting.is_toy else 8192, dimensions.text_cfg.context_length)
    rates = {}
    for workers in numbers:
        plan = Plan(len(dataset), config.model_copy(update={"workers": workers}), 0)
        steps = min(plan.total_steps, 2 + 2 * workers)  # about equal times
        batches = load_batches(dataset, plan, 1, 0, 1, tokenizer)
        started, images = time.perf_counter(), 0
        for _ in range(steps):
            images += len(next(batches).captions)
        rates[str(workers)] = images / (time.perf_counter() - started)
        batches.close()
    dataset.close()
    listed = ", ".join(f"{workers} threads {rate:,.0f}" for workers, rate in rates.items())
    return measured(f"images/s: {listed}", images_per_second=rates)
