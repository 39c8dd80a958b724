"""Fingerprints of processes, and jobs that end with their parent, with and without a /proc."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataops import process
from dataops.home import CHECKOUT
from dataops.process import find_precision, has_gpu
from tests.concurrency import wait_for

MACHINE = {"tasks/download/guarded_process.py", "dataops/process.py"}
"""Modules that count the cores of the machine: libraries map memory for each, or where the process has no limit."""


@pytest.fixture(params=["proc", "ps"])
def proc(request):
    if request.param == "ps" and shutil.which("ps") is None:
        pytest.skip("no ps here")
    return Path("/nowhere" if request.param == "ps" else "/proc")


def test_fingerprint_is_stable_and_none_for_a_dead_process(proc):
    assert process.process_fingerprint(os.getpid(), proc) == process.process_fingerprint(os.getpid(), proc) is not None
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        assert process.process_fingerprint(child.pid, proc) is not None
        child.kill()
        wait_for(
            lambda: process.process_fingerprint(child.pid, proc) is None
        )  # a zombie is dead, though its pid exists


def test_a_job_ends_with_its_parent(proc):
    """Follow a process that is not the direct parent, since torchrun is between them."""
    code = "import sys, time\nfrom pathlib import Path\nfrom dataops import process\n"
    code += f"process.exit_with_parent(int(sys.argv[1]), proc=Path('{proc}'))\n"
    code += "print('follows', flush=True)\ntime.sleep(60)\n"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as master:
        command = [sys.executable, "-c", code, str(master.pid)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as job:
            assert job.stdout.readline() == "follows\n"
            master.kill()  # and not waited for
            assert job.wait() == process.RETRYABLE  # at its own end it would be 0


@pytest.mark.parametrize(
    ("groups", "files", "ranks", "expected"),
    [
        ("0::/", {}, 1, 8),
        ("0::/", {}, 3, 2),
        ("0::/", {}, 16, 1),
        ("0::/pod/job", {"pod/job/cpu.max": "max 100000", "pod/cpu.max": "450000 100000"}, 1, 4),
        ("0::/", {"cpu.max": "50000 100000"}, 1, 1),
        ("0::/", {"cpu.max": "1600000 100000"}, 1, 8),
        ("0::/", {"cpu.max": "damaged"}, 1, 8),
        ("3:cpuset:/a\n2:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 1, 8),
        ("2:cpu,cpuacct:/a", {"cpu,cpuacct/cpu.cfs_quota_us": "600000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2, 3),
    ],
)  # fmt: skip
def test_the_cores_are_those_that_the_process_may_use(tmp_path, monkeypatch, groups, files, ranks, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    for name, content in {
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        "proc/self/cgroup": groups,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert process.count_cores(tmp_path) == expected


def test_all_code_counts_the_cores_in_one_way():
    """A container's limit holds for every number of workers."""
    pattern = re.compile(r"\b(os|multiprocessing|psutil)\.(process_)?cpu_count\b|\bsched_getaffinity\b")
    folders = ("flows", "infra", "tasks", "training", "dataops", "plugins")
    paths = [path for folder in folders for path in (CHECKOUT / folder).rglob("*.py")]
    found = {str(path.relative_to(CHECKOUT)) for path in paths if pattern.search(path.read_text("utf-8"))}
    assert found == MACHINE


@pytest.mark.parametrize(("listed", "expected"), [("8.0\n9.0\n", "bf16"), ("7.5\n9.0\n", "fp16"), (None, "bf16")])
def test_old_gpus_compute_in_fp16(tmp_path, monkeypatch, listed, expected):
    find_precision.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    if listed is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\nprintf '{listed}'\n")
        tool.chmod(0o755)
    assert find_precision(on_gpu=True) == expected
    find_precision.cache_clear()


def test_a_gpu_is_there_unless_it_is_hidden(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert not has_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not has_gpu(tmp_path)
