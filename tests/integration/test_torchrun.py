"""Jobs of several processes: exit codes, and where their ranks may meet."""

import ipaddress
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataops.errors import JobFailed
from dataops.home import CHECKOUT
from dataops.process import ELSEWHERE
from tasks.engine.subprocess_job import ranks_launcher, run_job
from tasks.train.stage import build_launcher
from tests.kills.seaweed import free_port
from training.config import TrainConfig

pytestmark = pytest.mark.timeout(240)
SHOW_SOCKETS = """
import json, os, psutil, torch
from training import distributed
distributed.join(torch.device("cpu"))
processes = [psutil.Process(), psutil.Process(os.getppid())]
sockets = [each for process in processes for each in process.net_connections(kind="inet")]
found = distributed.gather_objects([each.laddr[0] for each in sockets if each.status == psutil.CONN_LISTEN])
if distributed.rank() == 0:
    print(json.dumps(["found", *found]))
distributed.leave()
"""


def run(*arguments, **environment):
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)


def test_job_is_retryable_when_one_of_its_ranks_is_killed(tmp_path):
    """As by lack of memory or pre-emption; tests/unit/tasks/engine/test_subprocess_job.py has other jobs and exit codes."""
    (tmp_path / "a_trainer.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    for package in ("training", "dataops"):  # of the launcher
        (tmp_path / package).symlink_to(CHECKOUT / package)
    with pytest.raises(JobFailed, match="SIGKILL") as caught:
        run_job("a_trainer", {}, tmp_path / "work", launcher=ranks_launcher(2), root=tmp_path)
    assert (caught.value.exit_code, caught.value.retryable) == (75, True)


def test_machines_that_meet_on_loopback_listen_nowhere_else(tmp_path):
    """Agents, ranks and both of their stores, of two machines."""
    (tmp_path / "show_sockets.py").write_text(SHOW_SOCKETS)
    config = TrainConfig(nnodes="2", rdzv_endpoint=f"127.0.0.1:{free_port()}", max_restarts=0)

    def agent(number):
        launcher = build_launcher(config, "k", tmp_path / str(number))
        path = f"{CHECKOUT}{os.pathsep}{tmp_path}"
        return run(*launcher, "-m", "show_sockets", PYTHONPATH=path, **({ELSEWHERE: "1"} if number else {}))

    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(agent, range(2)))
    log = "".join(result.stdout + result.stderr for result in ended)
    assert [result.returncode for result in ended] == [0, 0], log
    (line,) = [line for result in ended for line in result.stdout.splitlines() if '"found"' in line]
    addresses = [address for of_rank in json.loads(line)[1:] for address in of_rank]
    assert len(addresses) >= 4, "two stores, two ranks"
    assert [address for address in addresses if not ipaddress.ip_address(address).is_loopback] == []


def test_trainer_refuses_to_run_under_a_torchrun_that_listens_on_all_interfaces(tmp_path):
    job = {"train": {"model": "ViT-B-32"}, "shards": [], "output": str(tmp_path / "out")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", f"--log-dir={tmp_path / 'logs'}")
    ended = run(*torchrun, "-m", "training.train", str(tmp_path / "job.json"))
    assert ended.returncode == 1
    failure = json.loads((tmp_path / "out" / "failure.json").read_text())
    assert failure["exit_code"] == 2
    assert "python -m training.launch N -m MODULE JOB.json" in failure["message"]
    assert "set train.allow_network = true" in failure["message"]


def test_trainer_refuses_to_meet_others_at_an_address_of_a_network(tmp_path):
    job = {"train": {"model": "ViT-B-32"}, "shards": [], "output": str(tmp_path / "out")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    environment = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29400"}
    ended = run("-m", "training.train", str(tmp_path / "job.json"), **environment)
    assert ended.returncode == 2
    assert "MASTER_ADDR is 10.0.0.7" in ended.stderr
