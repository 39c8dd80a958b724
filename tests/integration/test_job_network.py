"""What a training of one machine shows to the network: nothing; and to this machine: nothing that runs foreign bytes."""

import ipaddress
import json
import os
import pickle
import signal
import socket
import struct

import psutil
import pytest

import tests.trainings as training
from tasks.engine.subprocess_job import run_job
from tasks.train.stage import build_launcher
from tests.bombs import Bomb
from training.config import TrainConfig

pytestmark = pytest.mark.timeout(240)
make_job, shards = training.make_job, training.shards  # fixtures


def find_open_sockets(processes):
    """Return the addresses at which processes receive from anyone: listening TCP, unconnected UDP."""
    found = [connection for process in processes for connection in process.net_connections(kind="inet")]
    opened = [each for each in found if each.status == psutil.CONN_LISTEN or not each.raddr]
    return [(each.laddr[0], each.laddr[1]) for each in opened]


def send(address, data):
    """Send bytes to a listening socket, and leave."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(data)


@pytest.mark.parametrize("ranks", [1, 2])
def test_job_listens_on_loopback_only_and_runs_no_bytes_that_it_receives(ranks, make_job, tmp_path):
    path = make_job("out", "vit", epochs=20, nproc=ranks, log_every=1)
    job, folder = json.loads(path.read_text()), tmp_path / "out"
    planted = pickle.dumps(Bomb(tmp_path / "ran"), protocol=2)
    seen = []
    addresses = []

    def attack(line):
        if "step" not in line or seen:
            return
        jobs = [child for child in psutil.Process().children() if "training." in " ".join(child.cmdline())]
        processes = [process for job in jobs for process in (job, *job.children(recursive=True))]
        for process in processes:  # so that the training cannot end before it was looked at
            os.kill(process.pid, signal.SIGSTOP)
        seen.extend(process.pid for process in processes if "training.train" in process.cmdline())
        addresses.extend(find_open_sockets(processes))
        for address in addresses:
            for data in (planted, struct.pack("<q", len(planted)) + planted, b"\0" * 8 + planted, b"\0" * 4096):
                send(address, data)
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)

    config = TrainConfig(nproc=ranks)
    run_job("training.train", job, folder, launcher=build_launcher(config, "k", folder), on_line=attack)
    assert len(seen) >= ranks
    assert [host for host, _ in addresses if not ipaddress.ip_address(host).is_loopback] == []
    assert bool(addresses) == (ranks > 1), "one process listens nowhere; two meet by gloo"
    assert not (tmp_path / "ran").exists()
    assert json.loads((folder / "done.json").read_text())["steps"] > 20
    assert not list(folder.glob(".ranks-*")), "the file in which the ranks met is deleted"
