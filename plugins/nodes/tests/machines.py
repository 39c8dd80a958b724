"""Two machines, as processes with homes of their own, which share a store alone. `make nodes` runs this.

One is killed and starts again with an empty disk. The model has the bytes of a training on one machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from dataops.home import CHECKOUT
from dataops.snapshot import Draft, find_manifest
from dataops.store import FolderStore
from plugins.nodes.tests.flow import plan_training
from tasks.engine.stage import make
from tests.concurrency import wait_for
from tests.kills.seaweed import free_port
from tests.trainings import VIT, dataset
from training.checkpoint_files import MANIFEST

pytestmark = pytest.mark.timeout(900)


class Machines:
    """The processes of a job in a folder."""

    def __init__(self, folder, **train):
        self.folder, self.port, self.processes = folder, free_port(), []
        folder.mkdir()
        model = folder.parent / "vit.json"  # its path is in the key
        model.write_text(json.dumps(VIT))
        settings = {"model": str(model), "batch_size": 8, "vocab_size": 300, "threads": 1, "epochs": 60, "nnodes": "2"}
        settings |= {"checkpoint_every": 10, "log_every": 1, "precision": "fp32", "device": "cpu", "launch": "nodes"}
        (folder / "train.json").write_text(json.dumps(settings | train))
        self.store = FolderStore(folder / "store")
        Draft(self.store, "pack", "a" * 16).commit(dataset(self.store))

    def start(self, index):
        """Start a machine; its log is in the folder."""
        environment = os.environ | {
            "PAIRMILL_HOME": str(self.folder / f"home-{index}"),
            "JOB_COMPLETION_INDEX": str(index),
            "PAIRMILL_NODE_0": "127.0.0.1",
            "PAIRMILL_NODE_JOB": "job/1",
        }
        command = ["-m", "pairmill", "node", "--store", self.store.uri, "--port", str(self.port), "--"]
        command += [sys.executable, "-m", "plugins.nodes.tests.flow", str(self.folder)]
        with (self.folder / f"log-{index}").open("ab") as log:
            self.processes.append(
                subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log, cwd=CHECKOUT)
            )
        return self.processes[-1]

    def has_whole_checkpoint(self):
        """Return whether the store has one."""
        return any(name.endswith(f"/{MANIFEST}") for name in self.store.names("train"))

    def log(self, index):
        """Return the log of a machine."""
        return (self.folder / f"log-{index}").read_text()


@pytest.fixture
def machines(tmp_path, sharding):
    found = Machines(tmp_path / "job", sharding=sharding)
    yield found
    for process in found.processes:
        process.kill()
        process.wait()


def weights_of(folder, key):
    manifest = find_manifest(FolderStore(folder / "store"), "train", key)
    return [(part.name, part.sha256) for part in manifest.parts if "evidence" not in part.name]


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_machine_that_is_lost_with_its_disk_begins_again_and_the_model_has_the_bytes_of_one_machine(
    machines, tmp_path, sharding
):
    alone = Machines(tmp_path / "alone", nnodes="1", nproc=2, launch="local", sharding=sharding)
    planned, context = plan_training(alone.folder)
    make(planned, context)
    second, first = machines.start(1), machines.start(0)
    wait_for(machines.has_whole_checkpoint, 300)
    second.send_signal(signal.SIGKILL)  # its ranks end with it
    second.wait()
    shutil.rmtree(machines.folder / "home-1")
    again = machines.start(1)
    assert (first.wait(400), again.wait(100)) == (0, 0), machines.log(0)[-5000:] + machines.log(1)[-3000:]
    assert "resumed from step-" in machines.log(0)
    key = plan_training(machines.folder)[0].key
    assert weights_of(machines.folder, key) == weights_of(alone.folder, planned.key)
    assert [name for name in machines.store.names("train") if "/_work/" in name] == []
    assert not list((machines.folder / "home-1").glob("jobs/train-*/checkpoints/*"))
