"""Where the ranks of a job may meet."""

import ipaddress
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataops.home import CHECKOUT
from dataops.process import ELSEWHERE
from tasks.train.stage import build_launcher
from tests import trainings
from tests.kills.seaweed import free_port
from tests.trainings import run_training
from training.config import TrainConfig

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("torch")]
process_state = trainings.process_state  # a fixture
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


def write_job(folder):
    job = {"train": {"model": "ViT-B-32"}, "shards": [], "output": str(folder / "out")}
    (folder / "job.json").write_text(json.dumps(job))


def read_failure(folder):
    return json.loads((folder / "out" / "failure.json").read_text())


def test_trainer_refuses_to_run_under_a_torchrun_that_listens_on_all_interfaces(tmp_path):
    write_job(tmp_path)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", f"--log-dir={tmp_path / 'logs'}")
    ended = run(*torchrun, "-m", "training.train", str(tmp_path / "job.json"))
    assert ended.returncode == 1
    failure = read_failure(tmp_path)
    assert failure["exit_code"] == 2
    assert "python -m training.launch N -m MODULE JOB.json" in failure["message"]
    assert "set train.allow_network = true" in failure["message"]


@pytest.mark.usefixtures("process_state")
def test_trainer_refuses_to_meet_others_at_an_address_of_a_network(tmp_path, monkeypatch):
    write_job(tmp_path)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29400"}.items():
        monkeypatch.setenv(name, value)
    assert run_training(tmp_path / "job.json") == 2
    assert "MASTER_ADDR is 10.0.0.7" in read_failure(tmp_path)["message"]
