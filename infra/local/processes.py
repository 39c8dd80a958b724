"""Processes and ports of this machine: find, start and end our processes, and choose ports.

A pid alone does not identify a process: it may be reused, or be older than a reboot. So a process is identified by its
fingerprint (boot id and start time). Each process that we start has `MARK` in its environment, which its children inherit,
so they are found even when the recorded process has ended. Independent of Prefect and MLflow.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from dataops.process import process_fingerprint

MARK = "PAIRMILL_SERVICE"
"""Environment variable that holds the folder of the service that a process belongs to."""


def find_marked(mark: str) -> list[int]:
    """Return the pids of the running processes that have `MARK=mark` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's process, or one that has just ended
            if process.environ().get(MARK) == mark and process_fingerprint(process.pid):
                found.append(process.pid)
    return found


def spawn(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> int:
    """Start `command` detached, append its output to `log`, and return its pid (also its group's and session's).

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
    """End the process group of `pid` and all processes with `mark`: SIGTERM, then SIGKILL after `grace_s`.

    The caller has checked that `pid` is our process; with None, only the processes with the mark are ended.
    """
    for sign, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                os.killpg(pid, sign)
        for member in find_marked(mark):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(member) != pid:  # the group already got the signal
                    os.kill(member, sign)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if not find_marked(mark) and (pid is None or process_fingerprint(pid) is None):
                return
            time.sleep(0.05)


def is_port_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:  # noqa: TID251  looks for free ports of 127.0.0.1
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT does not block them
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    # On some systems we could bind 127.0.0.1 beside a listener on 0.0.0.0, and both would get connections.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:  # noqa: TID251  looks for free ports of 127.0.0.1
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def choose_port(*preferred: int | None) -> int:
    """Return the first of `preferred` that is free, else any free port."""
    for port in preferred:
        if port is not None and is_port_free(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:  # noqa: TID251  looks for free ports of 127.0.0.1
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(mark: str, port: int) -> bool:
    """Return whether a process with `mark` listens on `port`, so that an answer from there is not another program's.

    Always True on systems other than Linux, where reading the connections of a process may need root.
    """
    if not psutil.LINUX:
        return True
    return any(port in _listening_ports(pid) for pid in find_marked(mark))


def describe_listener(port: int) -> str:
    """Return what listens on a port, for messages: a service of ours, with its home, or else another program."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's process, or one that has just ended
            folder = process.environ().get(MARK)
            if folder and port in _listening_ports(process.pid):
                return f"the server {Path(folder).name} of the home {Path(folder).parent.parent}"
    return "another program"


def _listening_ports(pid: int) -> set[int]:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:  # it has just ended
        return set()
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}
