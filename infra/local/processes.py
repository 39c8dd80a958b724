"""Processes and ports of this machine: who is alive, who is ours, how to start and how to end one.

A pid alone proves nothing (it may be reused, or date from before a reboot), so a process is known by its identity: boot
and start time. Everything that we start carries `MARK` in its environment, by which its leftovers are found even when
the process that we recorded is gone. Knows nothing of Prefect or MLflow.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from training.process import process_fingerprint

MARK = "PAIRMILL_SERVICE"
"""Environment variable that holds the folder of the service that a process belongs to."""

_PROC = Path("/proc")
_LISTEN = "0A"  # TCP_LISTEN of include/net/tcp_states.h


def find_marked(mark: str) -> list[int]:
    """Pids of the living processes that carry `MARK=mark`; empty where there is no /proc."""
    wanted = os.fsencode(f"{MARK}={mark}")
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError):  # another user's process, or one that ended meanwhile
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0") and process_fingerprint(pid):
                found.append(pid)
    return found


def spawn(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> int:
    """Start `command` detached, its output appended to `log`, and return its pid (also its group's and session's).

    Raises:
        OSError: the launcher could not be run.
    """
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("detach.py")), *command]
    with log.open("ab") as output:
        done = subprocess.run(
            launcher,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            check=False,
        )
    if done.returncode or not done.stdout.isdigit():
        raise OSError(f"could not start {command[0]} (launcher exit {done.returncode}); see {log}")
    return int(done.stdout)


def terminate(pid: int | None, mark: str, *, grace_s: float) -> None:
    """End the group that `pid` leads and all that carry `mark`: SIGTERM, then SIGKILL after `grace_s`.

    The caller has verified that `pid` is ours; None leaves only those with the mark.
    """
    for sign, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                os.killpg(pid, sign)
        for member in find_marked(mark):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(member) != pid:  # the group has had its signal
                    os.kill(member, sign)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if not find_marked(mark) and (pid is None or process_fingerprint(pid) is None):
                return
            time.sleep(0.05)


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    # A listener on 0.0.0.0 lets us bind 127.0.0.1 on some systems, and would then share the port with us.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def choose_port(*preferred: int | None) -> int:
    """The first of `preferred` that is free, else any free one."""
    for port in preferred:
        if port is not None and is_port_free(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(mark: str, port: int) -> bool:
    """Whether a process with `mark` listens on `port`: tells our server from a stranger that answers in its place.

    True where there is no /proc to ask.
    Source: proc_net_tcp: local address, state (0A), inode in columns 2, 4, 10.
    """
    if not (_PROC / "net/tcp").exists():
        return True
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    return any(link in inodes for pid in find_marked(mark) for link in _descriptors(pid))


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in (_PROC / table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                    yield columns[9]


def _descriptors(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(descriptor.readlink())


def _pids() -> list[int]:
    try:
        return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    except FileNotFoundError:
        return []
