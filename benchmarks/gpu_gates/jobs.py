"""Gates on whole training jobs, in processes that are stopped, killed and starved of memory."""

import json
import os
import re
import signal
import sys
import time
from dataclasses import replace

import torch

from benchmarks.gpu_gates.arithmetic import compare_curves
from benchmarks.gpu_gates.inputs import choose_model, write_job, write_shards
from benchmarks.gpu_gates.outcomes import Setting, judge, not_run
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


def run_ranks(setting, path, trial=None, ranks=1):
    """Run the ranks of a job to their end; return the exit code of each."""
    context, meeting = setting.job_processes(), path.with_suffix(f".meeting-{time.monotonic_ns()}")
    trials = [replace(trial or Trial(), rank=rank, ranks=ranks) for rank in range(ranks)]
    processes = [context.Process(target=run_job, args=(path, one, os.getpid(), meeting)) for one in trials]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def read_losses(path):
    """Return the losses in the metrics of a job."""
    lines = (path.with_suffix("") / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def describe_end(path):
    """Return the last line that a job logged."""
    lines = path.with_suffix(".log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no log"


def find_different(one, other):
    """Return the names of the outputs of two jobs that have other bytes."""
    return [name for name in OUTPUTS if len({file_sha256(job.with_suffix("") / name) for job in (one, other)}) > 1]


def compare_resumed_job(setting):
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
    steps = len(read_losses(undisturbed))
    different = ", ".join(find_different(undisturbed, disturbed))
    return judge(
        f"{different} differ after a stop and a kill"
        if different
        else f"the same bytes after {steps} steps, a stop after step 4 and a kill after step 8",
        passed=not different,
        sha256={name: file_sha256(undisturbed.with_suffix("") / name) for name in OUTPUTS},
        steps=steps,
    )


def follow_memory_remedy(setting):
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


def compare_two_ranks(setting, sharding="none"):
    """Train on two ranks with odd batches, of which only one exceeds the gradient cache, and in one process.

    Args:
        sharding: as train.sharding; a sharded training is also stopped and killed, and must end with the same bytes.
    """
    on_cards = not setting.is_toy and torch.cuda.device_count() > 1
    kind = "two cards" if on_cards else "two gloo ranks on the CPU"
    shards, is_sharded = write_shards(setting.folder, 18, 40), sharding != "none"
    table = {"model": choose_model(Setting("cpu", setting.folder), "ViT"), "device": "cuda" if on_cards else "cpu"}
    table |= {"batch_size": 9, "epochs": 3, "precision": "fp32", "threads": 1, "vocab_size": 300, "eps": 1e-3}
    table |= {"grad_cache": 4, "max_grad_norm": 1.0, "checkpoint_every": 2, "deterministic": True}
    table["grad_checkpointing"] = is_sharded
    alone = write_job(setting, f"alone-{sharding}", shards, **table)
    both = [
        write_job(setting, f"{name}-{sharding}", shards, **table, nproc=2, sharding=sharding)
        for name in ("undisturbed", "disturbed")
    ]
    codes, expected = [run_ranks(setting, alone), run_ranks(setting, both[0], ranks=2)], [[0], [0, 0]]
    for trial in (Trial(signal.SIGTERM, 2), Trial(signal.SIGKILL, 4), Trial()) if is_sharded else ():
        codes.append(run_ranks(setting, both[1], trial, ranks=2))
        expected.append([{signal.SIGTERM: RETRYABLE, signal.SIGKILL: -signal.SIGKILL}.get(trial.signum or 0, 0)] * 2)
    if codes != expected:
        return judge(f"exit codes {codes}, not {expected}: {describe_end(both[int(is_sharded)])}", passed=False)
    if not re.search(rf" on {table['device']}\S* x 2\n", both[0].with_suffix(".log").read_text()):
        return judge(f"the job did not run on {kind}", passed=False)
    curves = {"two ranks": read_losses(both[0]), "one process": read_losses(alone)}
    _, greatest = compare_curves(*curves.values())
    other = find_different(*both) if is_sharded else []
    ended = f"{', '.join(other)} differ after a stop and a kill; " if other else ""
    return judge(
        f"{kind}: {ended}losses differ by {greatest:.1e} at most; the limit is {RANKS_LIMIT:g}",
        passed=not other and greatest <= RANKS_LIMIT,
        ranks=kind,
        greatest_difference=greatest,
        losses=curves,
    )


def measure_grace(setting):
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
