"""A training of two ranks as the stage starts it: stopped, its launcher killed, resumed, and the same bytes at the end."""

import json
import os
import signal

import psutil
import pytest

import tests.trainings as training
from dataops.digest import file_sha256
from dataops.errors import JobFailed
from tasks.engine.subprocess_job import end_jobs, ranks_launcher, run_job
from tests.job_processes import Ranks

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
make_job, shards = training.make_job, training.shards  # fixtures
OUTPUTS = ("model.safetensors", "metrics.jsonl", "skipped.json")


def train(path, folder, on_line=lambda line: None):
    job = json.loads(path.read_text())
    run_job("training.train", job, folder, launcher=ranks_launcher(2), on_line=on_line)


def find_ranks():
    return [each for each in psutil.Process().children(recursive=True) if "training.train" in each.cmdline()]


def test_two_ranks_end_in_the_same_bytes_after_a_stop_and_a_killed_launcher(make_job, tmp_path):
    settings = {"epochs": 30, "nproc": 2, "log_every": 1, "checkpoint_every": 5}
    jobs = {name: make_job(name, **settings) for name in ("undisturbed", "disturbed")}
    assert Ranks(jobs["undisturbed"], 2).wait() == [0, 0]

    def stop(line):
        if "step 7/" in " ".join(line.split()):
            end_jobs()

    folder, killed = tmp_path / "disturbed", []
    with pytest.raises(JobFailed, match="stopped after step") as stopped:
        train(jobs["disturbed"], folder, stop)
    assert stopped.value.exit_code == 75
    step = json.loads((folder / "failure.json").read_text())["message"].split()[3]
    assert (folder / "checkpoints" / f"step-{int(step):06d}").is_dir(), "it wrote a checkpoint first"

    def kill(line):
        if "resumed from" in line and not killed:
            killed.extend(find_ranks())
            (launcher,) = {rank.ppid() for rank in killed if "training.launch" not in rank.cmdline()}
            os.kill(launcher, signal.SIGKILL)

    with pytest.raises(JobFailed, match=r"SIGKILL|lost another rank") as lost:  # whichever is noticed first
        train(jobs["disturbed"], folder, kill)
    assert lost.value.exit_code == 75
    assert not find_ranks(), "they ended with their launcher"
    lines = []
    train(jobs["disturbed"], folder, lines.append)
    assert any("resumed from" in line for line in lines)
    for name in OUTPUTS:
        assert file_sha256(folder / name) == file_sha256(training.output_of(jobs["undisturbed"]) / name), name
