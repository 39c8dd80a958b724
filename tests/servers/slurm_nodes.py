"""A SLURM cluster on loopback: munged, slurmctld, and several slurmd with names of their own. Debian has the packages."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests import concurrency
from tests.kills.seaweed import free_port

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = [name for name in COMMANDS if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None]
NODES = ("n1", "n2")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=6
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=30
CompleteWait=0
MessageTimeout=5
SlurmdTimeout=10
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace} MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 MaxTime=INFINITE State=UP
"""


@dataclass
class SlurmCluster:
    """Nodes of 2 cores each, in the partitions `low` and `high`, whose jobs preempt those of `low`."""

    folder: Path
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name, *command):
        environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"}
        with (self.folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def stop(self, name):
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start_node(self, name):
        self.start(name, "slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf"))

    def lose_node(self, name):
        """Kill the node's daemon and all that it runs, as the loss of a machine does."""
        log = str(self.folder / f"{name}.log")
        steps = [one for one in psutil.process_iter() if one.name() == "slurmstepd" and _has_open(one, log)]
        daemon = self.processes.pop(name)
        daemon.kill()
        daemon.wait()
        for process in [child for step in steps for child in (step, *step.children(recursive=True))]:
            process.kill()

    def run(self, *command):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, *options):
        """Return id, state, node and partition of each job that runs or waits."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i|%T|%N|%P", *options).splitlines()
        return [line.split("|") for line in lines]

    def set_node(self, name, state):
        self.run("scontrol", "update", f"NodeName={name}", f"State={state}", "Reason=test")

    def clear(self):
        """Cancel all jobs and wait until the nodes are idle."""
        self.run("scancel", f"--user={getpass.getuser()}")
        for name in NODES:
            if "down" in self.run("sinfo", "--noheader", f"--nodes={name}", "--format=%T"):
                self.set_node(name, "RESUME")
        wait_for(lambda: not self.jobs() and _is_idle())


wait_for = partial(concurrency.wait_for, seconds=300, pause=0.1)


@contextmanager
def slurm_cluster(folder, grace=0):
    """Start a cluster in a folder, which SLURM_CONF names inside the `with`; end its processes.

    Args:
        grace: seconds between the SIGTERM of a preempted job and its end.
    """
    cluster = SlurmCluster(folder)
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    host, port = socket.gethostname().partition(".")[0], free_port()
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=2 RealMemory=1000\n"
        for name in NODES
    ]
    config = CONFIG.format(host=host, port=port, user=getpass.getuser(), folder=folder, grace=grace)
    (folder / "slurm.conf").write_text(config + "".join(nodes))
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
        try:
            cluster.start(
                "munged",
                "munged",
                "--foreground",
                "--force",
                f"--socket={folder}/munge.sock",
                f"--key-file={key}",
                *files,
            )
            wait_for((folder / "munge.sock").exists)
            cluster.start("slurmctld", "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
            for name in NODES:
                (folder / f"spool-{name}").mkdir()
                cluster.start_node(name)
            wait_for(_is_idle)
            yield cluster
            cluster.clear()
        finally:
            for name in reversed(list(cluster.processes)):
                cluster.stop(name)


def _is_idle():
    command = ("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T")
    return subprocess.run(command, capture_output=True, text=True).stdout.split() == ["idle"] * len(NODES)


def _has_open(process, path):
    return path in {file.path for file in process.open_files()}
