"""The gate that a step makes the host wait for the device at most once."""

import json
import os
from collections import Counter
from dataclasses import replace

import torch

from benchmarks.gpu_gates.arithmetic import make_config
from benchmarks.gpu_gates.inputs import make_batch, make_inputs
from benchmarks.gpu_gates.outcomes import judge, not_run
from benchmarks.gpu_gates.sides import make_our_step
from tests.host_reads import counting, counting_on_card
from training import distributed
from training.job import resolve_device
from training.loop.inputs import upload_batches
from training.loop.step_recorder import DelayedValues
from training.rendezvous import MEETING_FILE

STEPS, ALLOWED = 5, 1
SETTINGS = {"patch_dropout": 0.5, "max_grad_norm": 1.0, "label_smoothing": 0.1, "augment": {"flip": 0.5, "hue": 0.1}}
SETTINGS |= {"max_bad_steps": 2, "bad_loss": 9}


def count_syncs(setting):
    """Count the waits of some steps with uploads and delayed values, as the trainer takes them, and list their lines."""
    return report_syncs(find_syncs(setting, torch.device(setting.device), "ViT-B-32", **SETTINGS), STEPS)


def count_syncs_of_ranks(setting):
    """Count the waits of the steps of two ranks of a ResNet, whose batch norms exchange in each layer."""
    if not setting.is_toy and torch.cuda.device_count() < 2:
        return not_run("needs two cards")
    make_config(setting, "RN50")  # writes the toy, which both ranks read
    meeting = setting.folder / f"meeting-{os.getpid()}"
    context = setting.job_processes()
    ranks = [context.Process(target=count_in_rank, args=(setting, rank, meeting)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    if codes := [rank.exitcode for rank in ranks if rank.exitcode]:
        return judge(f"exit codes {codes}, not 0", passed=False)
    return report_syncs(json.loads(meeting.with_suffix(".json").read_text()), STEPS)


def count_in_rank(setting, rank, meeting):
    """Count the waits of one of two ranks; the first writes them beside the file in which they meet."""
    os.environ |= {MEETING_FILE: str(meeting), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    device = resolve_device(setting.device)
    distributed.join(device)
    found = find_syncs(setting, device, "RN50")
    if (
        setting.is_toy
    ):  # DistributedDataParallel divides each gradient by a number of the host, which a CPU cannot distinguish
        found = [line for line in found if not line.endswith("_local_scalar_dense")]
    if rank == 0:
        meeting.with_suffix(".json").write_text(json.dumps(found))
    distributed.leave()


def find_syncs(setting, device, model, **settings):
    """Return the line of each wait of the host in some steps."""
    pairs = 8 if setting.is_toy else 64
    config = make_config(setting, model, precision="fp32" if setting.is_toy else "bf16", **settings)
    dimensions = config.load_dimensions()
    _, step = make_our_step(config, dimensions, device, [pairs] * distributed.world_size())

    def batches():
        for number in range(1, STEPS + 2):
            batch = make_batch(dimensions, pairs, number)
            made = make_inputs(config, dimensions, pairs, number, pin=not setting.is_toy)
            yield replace(batch, inputs=made)

    uploaded = upload_batches(list(batches()), device)
    step(next(uploaded).inputs, 1e-4)  # the first step also makes constants and kernels
    previous = None
    with counting() if setting.is_toy else counting_on_card() as found:
        for batch in uploaded:
            values = DelayedValues(step(batch.inputs, 1e-4))
            if previous is not None:
                previous.read()
            previous = values
    return found


def report_syncs(found, steps):
    """Return the outcome for the lines that waited in a number of steps."""
    lines = Counter(found)
    listed = ", ".join(f"{line} {count} times" for line, count in lines.most_common()) or "none"
    return judge(
        f"{len(found) / steps:.2g} syncs a step; the limit is {ALLOWED} ({listed})",
        passed=len(found) <= ALLOWED * steps,
        syncs_per_step=len(found) / steps,
        lines=dict(lines),
    )
