"""Ranks that divide the model train as one process does, and resume from what any number of ranks wrote."""

import errno
import json
import os
import platform
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import distributed_c10d

from dataops.process import RETRYABLE
from tests.job_processes import Ranks, run_job
from tests.trainings import assert_same_training, output_of, rows_of, with_suite
from training import checkpoints as writing
from training import distributed, train
from training.sharding import Part, rows_of_part

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("ranks")]
SETTINGS = {"epochs": 1, "eps": 1e-3, "checkpoint_every": 2, "keep_checkpoints": 9}
"""A large eps keeps Adam from blowing rounding up where a gradient is all but zero."""
EVERYTHING = {
    "max_bad_steps": 2,
    "loss": "sigmoid",
    "grad_cache": 2,
    "patch_dropout": 0.5,
    "grad_checkpointing": True,
    "max_grad_norm": 0.5,
}
WEIGHTS, METRICS = "model.safetensors", "metrics.jsonl"


def wait_for(ranks):
    for each in ranks:
        codes = each.wait()
        assert not any(codes), codes


def die_in_checkpoint(path, trial, *more):
    """Run a job whose second rank is killed between the two files of its part of step 2's checkpoint."""
    save = writing.save_tensors

    def save_or_die(tensors, file):
        if trial.rank == 1 and "000002" in file.parent.name and file.name.startswith("optimizer"):
            os.kill(os.getpid(), signal.SIGKILL)
        save(tensors, file)

    writing.save_tensors = save_or_die
    run_job(path, trial, *more)


def form_no_group(path, trial, *more):
    """Run a job in which a new group of ranks fails, as it hangs on GPUs for the ranks that are not in it."""
    torch.distributed.new_group = None
    run_job(path, trial, *more)


def write_slowly(path, trial, *more):
    """Run a job whose checkpoint of step 2, the last but one, is still being written when the steps have ended."""
    save = writing.save_tensors

    def wait_and_save(tensors, file):
        time.sleep("000002" in file.parent.name)
        save(tensors, file)

    writing.save_tensors = wait_and_save
    run_job(path, trial, *more)


def refuse_pickles(*arguments):
    """Run a job in which a rank that unpickles what another sends fails."""

    def refuse(*_):
        raise AssertionError("a rank unpickles what another sent")

    distributed_c10d._tensor_to_object = refuse
    run_job(*arguments)


def hang(path, trial, *more):
    """Run a job whose second rank stops to answer in step 2."""
    launch = train.launch_step

    def launch_or_hang(run, *arguments):
        if trial.rank == 1 and run.step == 2:
            time.sleep(600)
        return launch(run, *arguments)

    distributed.TIMEOUT = timedelta(seconds=4)
    train.launch_step = launch_or_hang
    run_job(path, trial, *more)


def compile_as_is(*arguments):
    """Run a job whose compiler runs each graph as it is."""
    compile_function = torch.compile
    backend = lambda graph, inputs: graph.forward  # noqa: E731
    torch.compile = lambda function, **options: compile_function(function, backend=backend, **options)
    train.prepare_compiler = lambda device: Path()  # it needs none
    run_job(*arguments)


def fill_disk(path, trial, *more):
    """Run a job whose second rank finds the disk full."""

    def fail(tensors, file):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    writing.save_tensors = fail if trial.rank == 1 else writing.save_tensors
    run_job(path, trial, *more)


def log_of(job):
    return job.with_suffix(".log").read_text()


def restart_at(job, source, step):
    """Give a job the checkpoints of another one up to a step."""
    shutil.copytree(output_of(source), output_of(job))
    for path in (output_of(job) / "checkpoints").iterdir():
        if path.name > f"step-{step:06d}":
            shutil.rmtree(path)
    for name in ("done.json", "evidence-suite.jsonl", WEIGHTS):
        (output_of(job) / name).unlink(missing_ok=True)
    # A part of the same step that other ranks wrote before, as a copy in the store can have it.
    (output_of(job) / "checkpoints" / f"step-{step:06d}" / "model-00009-of-00009.safetensors").write_bytes(b"old")


def assert_same_bytes(one, other):
    for name in (METRICS, WEIGHTS):
        assert (output_of(one) / name).read_bytes() == (output_of(other) / name).read_bytes(), name


def test_ranks_that_divide_the_model_train_as_one_process_and_resume_each_other(make_job, suite):
    """Three ranks of one machine, and two machines of two, whose shares of 9 pairs have one and two turns of the cache.

    One of three ranks is then killed while it writes a checkpoint.
    """
    names = ("alone", "three", "machines", "killed", "two", "joined", "divided")
    more = {"machines": {"sharding": "hybrid"}, "alone": {}, "joined": {}}
    settings = {**SETTINGS, **EVERYTHING, "checkpoint_every": 1, "evaluate_every": 2}
    jobs = {name: make_job(name, **settings, **more.get(name, {"sharding": "full"})) for name in names}
    for job in jobs.values():
        with_suite(job, suite)
    killed = Ranks(jobs["killed"], 3, target=die_in_checkpoint)
    wait_for(
        [
            Ranks(jobs["alone"], 1),
            Ranks(jobs["three"], 3),
            Ranks(jobs["machines"], 4, machines=2, target=refuse_pickles),
        ]
    )
    assert killed.wait() == [RETRYABLE, -signal.SIGKILL, RETRYABLE]
    for name in ("three", "machines"):
        assert_same_training(jobs["alone"], jobs[name])
        evaluated = (output_of(jobs[name]) / "evidence-suite.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in evaluated] == [2]
    parts = {"three": 3, "machines": 2}
    for name, count in parts.items():
        files = {path.name for path in (output_of(jobs[name]) / "checkpoints" / "step-000002").iterdir()}
        own = {
            f"{kind}-{n + 1:05d}-of-{count:05d}.safetensors" for kind in ("model", "optimizer") for n in range(count)
        }
        assert files == own | {"state.json", "manifest.json"}

    restart_at(jobs["two"], jobs["three"], 2)
    restart_at(jobs["joined"], jobs["three"], 2)
    restart_at(jobs["divided"], jobs["alone"], 2)
    wait_for([Ranks(jobs["killed"], 3), Ranks(jobs["two"], 2), Ranks(jobs["joined"], 1), Ranks(jobs["divided"], 2)])
    assert "resumed from step-000001" in log_of(jobs["killed"])
    assert_same_bytes(jobs["killed"], jobs["three"])
    for name in ("two", "joined", "divided"):
        assert "resumed from step-000002" in log_of(jobs[name])
        assert_same_training(jobs["alone"], jobs[name])


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_machines_without_a_shared_disk_resume_from_the_files_of_both(make_job, sharding):
    """Where parts are on both machines, one of the newest checkpoint is damaged; else each machine has two ranks."""
    settings = {**SETTINGS, "checkpoint_every": 1, "sharding": sharding, "launch": "another"}
    first, second = (make_job(name, **settings) for name in ("first", "second"))
    layout = {"ranks": 2, "others": [second]}
    if sharding == "none":
        layout = {"ranks": 4, "others": [first, second, second], "target": form_no_group}
    wait_for([Ranks(first, machines=2, **layout)])
    expected = {name: (output_of(first) / name).read_bytes() for name in (METRICS, WEIGHTS, "skipped.json")}
    (output_of(first) / "done.json").unlink()
    files = {job: {path.name for path in (output_of(job) / "checkpoints").glob("*/*")} for job in (first, second)}
    name = "step-000002"
    if sharding == "full":
        assert files[first] & files[second] == {"state.json", "manifest.json"}, "each has its own parts"
        (damaged,) = (output_of(second) / "checkpoints" / name).glob("model-*")
        damaged.write_bytes(b"half")
        name = "step-000001"
    else:
        assert not files[second], "the first rank has written all"
    wait_for([Ranks(first, machines=2, **layout)])
    assert f"resumed from {name}" in log_of(first)
    assert f"resumed from {name}" in log_of(second)
    contents = [
        {path.name: path.read_bytes() for path in (output_of(job) / "checkpoints" / name).iterdir()}
        for job in (first, second)
    ]
    assert contents[0] == contents[1], "each has all files"
    assert {name: (output_of(first) / name).read_bytes() for name in expected} == expected


@pytest.mark.parametrize(
    "more", [{"precision": "bf16"}, pytest.param({"precision": "fp32", "fp8": True}, marks=pytest.mark.long)]
)
def test_two_ranks_end_in_the_same_bits_whether_they_divide_the_model(make_job, more):
    """The sums of two gradients have no order, so that only the arithmetic could differ: bf16 is that of autocast."""
    if "fp8" in more:
        pytest.importorskip("plugins.fp8")
    settings = {**SETTINGS, **more}
    whole, divided = (make_job(name, **settings, sharding=name) for name in ("none", "full"))
    wait_for([Ranks(whole, 2), Ranks(divided, 2, target=write_slowly)])
    assert [row["loss"] for row in rows_of(divided)] == [row["loss"] for row in rows_of(whole)]
    assert (output_of(divided) / WEIGHTS).read_bytes() == (output_of(whole) / WEIGHTS).read_bytes()


@pytest.mark.long
def test_ranks_that_divide_a_compiled_model_end_in_the_same_bits(make_job):
    settings = {**SETTINGS, "sharding": "full"}
    plain, compiled = (make_job(name, **settings, compile=name == "compiled") for name in ("plain", "compiled"))
    wait_for([Ranks(plain, 2), Ranks(compiled, 2, target=compile_as_is)])
    assert_same_bytes(plain, compiled)


def test_a_rank_that_hangs_ends_the_job_with_75(make_job):
    job = make_job("a", **SETTINGS)
    ranks = Ranks(job, 2, target=hang)
    assert ranks.wait_for_first() == RETRYABLE
    failure = json.loads((output_of(job) / "failure.json").read_text())
    assert failure["error"] == "RankLost"
    assert failure["message"].startswith(f"rank 0 on {platform.node()} lost another rank: ")


def test_a_full_disk_of_one_rank_ends_all_of_them(make_job):
    job = make_job("a", **SETTINGS, sharding="full")
    assert Ranks(job, 2, target=fill_disk).wait() == [RETRYABLE] * 2
    failure = json.loads((output_of(job) / "failure.json").read_text())
    assert "model-00002-of-00002.safetensors: No space left on device" in failure["message"]
    (unfinished,) = (output_of(job) / "checkpoints").iterdir()
    assert not list(unfinished.glob("*00002-of*")), "the half part takes no room"


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9, 16])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_parts_are_the_chunks_of_torch(rows, count):
    tensor = torch.arange(rows)
    chunks = [*tensor.chunk(count), *[tensor[:0]] * count][:count]
    for number, chunk in enumerate(chunks):
        assert tensor[rows_of_part(rows, Part(number, count, is_first_copy=True))].equal(chunk)
