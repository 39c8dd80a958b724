"""Gates on whole training jobs, in processes that are stopped, killed and starved of memory."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from benchmarks.gpu_gates.arithmetic import compare_curves
from benchmarks.gpu_gates.inputs import choose_model, write_job, write_shards
from benchmarks.gpu_gates.outcomes import Outcome, Setting, judge, not_run
from dataops.digest import file_sha256
from dataops.process import RETRYABLE
from tests.job_processes import Trial, run_job
from training.checkpoints import find_newest_checkpoint
from training.job import FAILURE, Job

OUTPUTS = ("model.safetensors", "metrics.jsonl", "skipped.json", "tokenizer.json")
GRACE_SECONDS = 100
"""Time that a run grants its training from SIGTERM to the end of its checkpoint."""
RANKS_LIMIT = 1e-4
MEMORY_SHARE, BYTES_PER_PAIR = 0.1, 4e6
"""Share of a card's memory, and the bytes of it for each pair: a tenth of what the activations of ViT-S/16 need."""
TOY_MEMORY, TOY_PAIRS = 150_000_000, 2000
"""Bytes that a toy job may allocate on a CPU, and the pairs of its step, which needs twice as much."""
TECHNIQUES = {
    "patch_dropout": 0.25,
    "unmasked_tail": 0.2,
    "grad_checkpointing": True,
    "label_smoothing": 0.1,
    "max_grad_norm": 1.0,
    "schedule": "constant",
    "max_bad_steps": 2,
    "prompts": ["{}", "a photo of {}"],
    "word_dropout": 0.1,
    "crop_area": [0.5, 1.0],
    "augment": {
        "zoom": [0.9, 1.1],
        "rotate": 5,
        "flip": 0.5,
        "hue": 0.1,
        "blur": 0.2,
        "erase_lines": 0.2,
        "cutout": 0.2,
    },
    "precision": "bf16",
    "deterministic": True,
    "bad_loss": 9,
    "max_rollbacks": 1,
}
"""Every technique that works on a part of a batch, draws random numbers or has a state of its own."""


@contextmanager
def start_ranks(setting: Setting, path: Path, trial: Trial, ranks: int) -> Iterator[list[BaseProcess]]:
    """Start the ranks of a job; end those that are left."""
    context = setting.job_processes()
    meeting = path.with_suffix(f".meeting-{time.monotonic_ns()}")
    trials = [replace(trial, rank=rank, ranks=ranks) for rank in range(ranks)]
    processes = [context.Process(target=run_job, args=(path, one, os.getpid(), meeting)) for one in trials]  # pyright: ignore[reportAttributeAccessIssue]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def run_ranks(setting: Setting, path: Path, trial: Trial | None = None, ranks: int = 1) -> list[int]:
    """Run a job to its end; return the exit code of each rank."""
    with start_ranks(setting, path, trial or Trial(), ranks) as processes:
        for process in processes:
            process.join()
        return [process.exitcode for process in processes]  # pyright: ignore[reportReturnType]


def read_losses(path: Path) -> list[float]:
    """Return the losses in the metrics of a job."""
    lines = (path.with_suffix("") / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def describe_end(path: Path) -> str:
    """Return the last line that a job logged."""
    lines = path.with_suffix(".log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no log"


def compare_resumed_job(setting: Setting) -> Outcome:
    """Run a job once undisturbed, and once with SIGTERM and SIGKILL; the outputs must have the same bytes."""
    if setting.is_toy:
        shards, sizes = (
            write_shards(setting.folder, 24, 40),
            {"batch_size": 9, "grad_cache": 4, "vocab_size": 300, "threads": 1},
        )
    else:
        shards, sizes = write_shards(setting.folder, 2000, 256), {"batch_size": 256, "grad_cache": 96, "threads": 8}
    model = choose_model(setting, "ViT-S-16")
    table = {"model": model, "epochs": 4, "checkpoint_every": 2, "lr": 1e-3, **TECHNIQUES, **sizes}
    undisturbed, disturbed = (write_job(setting, name, shards, **table) for name in ("undisturbed", "disturbed"))
    codes = [run_ranks(setting, undisturbed)]
    for trial in (Trial(signal.SIGTERM, 3), Trial(signal.SIGKILL, 8), Trial()):
        codes.append(run_ranks(setting, disturbed, trial))
    expected = [[0], [RETRYABLE], [-signal.SIGKILL], [0]]
    if codes != expected:
        return judge(f"exit codes {codes}, not {expected}: {describe_end(disturbed)}", passed=False)
    same = {
        name: file_sha256(undisturbed.with_suffix("") / name) == file_sha256(disturbed.with_suffix("") / name)
        for name in OUTPUTS
    }
    steps = len(read_losses(undisturbed))
    different = ", ".join(name for name, equal in same.items() if not equal)
    return judge(
        f"{different} differ after a stop and a kill"
        if different
        else f"the same bytes after {steps} steps, a stop after step 4 and a kill after step 8",
        passed=not different,
        sha256={name: file_sha256(undisturbed.with_suffix("") / name) for name in OUTPUTS},
        same=same,
        steps=steps,
    )


def follow_memory_remedy(setting: Setting) -> Outcome:
    """Run a job in a tenth of the card's memory; it must end with 2, and its first remedy must help."""
    if setting.is_toy:
        if sys.platform != "linux":
            return not_run("needs a card, or Linux's limit of a process's memory")
        memory, pairs, table = TOY_MEMORY, TOY_PAIRS, {"vocab_size": 300, "threads": 1, "precision": "fp32"}
    else:
        memory, table = MEMORY_SHARE, {"precision": "bf16"}
        pairs = min(2000, int(memory * torch.cuda.get_device_properties(0).total_memory / BYTES_PER_PAIR))
    shards = write_shards(setting.folder, pairs, 40 if setting.is_toy else 256)
    table |= {"model": choose_model(setting, "ViT-S-16"), "batch_size": pairs, "epochs": 1}
    path = write_job(setting, "too-large", shards, **table)
    code = run_ranks(setting, path, Trial(memory=memory))
    failure = path.with_suffix("") / FAILURE
    message = failure.read_text() if failure.exists() else describe_end(path)
    limit = re.search(r"set grad_cache to less than (\d+)", message)
    if code != [2] or limit is None:
        return judge(f"exit code {code}, not 2 with a remedy: {message}", passed=False)
    cached = int(limit[1]) // 32
    follows = write_job(setting, "remedied", shards, **table, grad_cache=cached)
    code = run_ranks(setting, follows, Trial(memory=memory))
    return judge(
        f"exit code 2, then {code[0]} with grad_cache = {cached}: {message if code == [0] else describe_end(follows)}",
        passed=code == [0],
        failure=message,
        grad_cache=cached,
    )


def compare_two_ranks(setting: Setting) -> Outcome:
    """Train on two ranks with odd batches, of which only one exceeds the gradient cache, and in one process."""
    on_cards = not setting.is_toy and torch.cuda.device_count() > 1
    shards = write_shards(setting.folder, 18, 40)
    table = {
        "model": choose_model(Setting("cpu", setting.folder), "ViT"),
        "batch_size": 9,
        "grad_cache": 4,
        "epochs": 2,
    }
    table |= {
        "device": "cuda" if on_cards else "cpu",
        "precision": "fp32",
        "threads": 1,
        "vocab_size": 300,
        "eps": 1e-3,
    }
    alone, both = write_job(setting, "alone", shards, **table), write_job(setting, "both", shards, **table, nproc=2)
    codes = run_ranks(setting, alone) + run_ranks(setting, both, ranks=2)
    if any(codes):
        return judge(f"exit codes {codes}, not 0: {describe_end(both)}", passed=False)
    curves = [read_losses(both), read_losses(alone)]
    _, greatest = compare_curves(*curves)
    kind = "two cards" if on_cards else "two gloo ranks on the CPU"
    if not re.search(rf" on {table['device']}\S* x 2\n", both.with_suffix(".log").read_text()):
        return judge(f"the job did not run on {kind}", passed=False)
    return judge(
        f"{kind}: losses differ by {greatest:.1e} at most; the limit is {RANKS_LIMIT:g}",
        passed=greatest <= RANKS_LIMIT,
        ranks=kind,
        greatest_difference=greatest,
        losses=dict(zip(("two ranks", "one process"), curves, strict=True)),
    )


def compare_sharded_job(setting: Setting) -> Outcome:
    """Train a sharded model on two ranks, undisturbed and stopped and killed, and the whole model in one process."""
    on_cards = not setting.is_toy and torch.cuda.device_count() > 1
    shards = write_shards(setting.folder, 18, 40)
    table = {"model": choose_model(Setting("cpu", setting.folder), "ViT"), "batch_size": 9, "epochs": 3, "eps": 1e-3}
    table |= {"device": "cuda" if on_cards else "cpu", "precision": "fp32", "threads": 1, "vocab_size": 300}
    table |= {"grad_cache": 4, "grad_checkpointing": True, "max_grad_norm": 1.0, "checkpoint_every": 2}
    table["deterministic"] = True
    alone = write_job(setting, "unsharded", shards, **table)
    both = [write_job(setting, name, shards, **table, nproc=2, sharding="full") for name in ("sharded", "resumed")]
    codes = [run_ranks(setting, alone), run_ranks(setting, both[0], ranks=2)]
    for trial in (Trial(signal.SIGTERM, 2), Trial(signal.SIGKILL, 4), Trial()):
        codes.append(run_ranks(setting, both[1], trial, ranks=2))
    expected = [[0], [0, 0], [RETRYABLE] * 2, [-signal.SIGKILL] * 2, [0, 0]]
    if codes != expected:
        return judge(f"exit codes {codes}, not {expected}: {describe_end(both[1])}", passed=False)
    same = [file_sha256(path.with_suffix("") / name) for name in OUTPUTS for path in both]
    _, greatest = compare_curves(read_losses(both[0]), read_losses(alone))
    is_same = same[::2] == same[1::2]
    kind = "two cards" if on_cards else "two gloo ranks on the CPU"
    return judge(
        f"{kind}: {'the same bytes' if is_same else 'other bytes'} after a stop and a kill; losses differ from those of "
        f"one process by {greatest:.1e} at most; the limit is {RANKS_LIMIT:g}",
        passed=is_same and greatest <= RANKS_LIMIT,
        ranks=kind,
        greatest_difference=greatest,
    )


def measure_grace(setting: Setting) -> Outcome:
    """Stop the training of ViT-L by SIGTERM; its checkpoint must be whole within the grace."""
    if setting.is_toy:
        shards, sizes = write_shards(setting.folder, 24, 40), {"batch_size": 8, "vocab_size": 300, "threads": 1}
    else:
        shards, sizes = write_shards(setting.folder, 2000, 256), {"batch_size": 64, "vocab_size": 8192}
    model = choose_model(setting, "ViT-L-14")
    path = write_job(setting, "stopped", shards, model=model, epochs=2, precision="auto", **sizes)
    code = run_ranks(setting, path, Trial(signal.SIGTERM, 2))
    seconds = time.monotonic() - float(path.with_suffix(".signalled").read_text())
    job, output = Job.model_validate_json(path.read_text()), path.with_suffix("")
    length = (output / "metrics.jsonl").stat().st_size
    found = find_newest_checkpoint(output / "checkpoints", job.digest(placement=False), length)
    size = sum(file.stat().st_size for file in found[0].iterdir()) if found else 0
    return judge(
        f"exit code {code[0]} and {'a whole checkpoint' if found else 'no checkpoint'} of {size / 1e9:.2g} GB "
        f"{seconds:.1f} s after SIGTERM; the limit is {GRACE_SECONDS} s",
        passed=code == [RETRYABLE] and found is not None and seconds <= GRACE_SECONDS,
        seconds=seconds,
        bytes=size,
    )
