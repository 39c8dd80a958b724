"""Starts, restarts and stops loopback servers, each with its own folder, state file and log.

    <services>/NAME/state.json   the process and port of the server, or of its last run; written atomically
    <services>/NAME/log          its output; what is in a long log is moved to log.1
    <services>/NAME/...          its data: the folder is its working directory

Callers hold `lock(<services>)` while they change anything; reading needs no lock. Independent of Prefect and MLflow.
"""

import contextlib
import dataclasses
import http.client
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from dataops.errors import PairmillError, ServiceError, writing
from dataops.formatting import format_now
from dataops.messages.waiting import waiting
from dataops.process import process_fingerprint, select_job_environment
from dataops.regular_files import read_text

logger = logging.getLogger(__name__)

STOP_GRACE_S = 15.0
LOG_BYTES = 10 * 2**20
"""Size of a server's log from which on it is moved to log.1, which is replaced."""
START_S = 300.0
"""Maximum time of a start, in seconds: on a loaded machine, Prefect's first one takes minutes."""
_LOCK_PATIENCE_S = START_S + 60.0
_RELEASE_S = 1.0
"""Time to wait until the system releases the port of a killed server."""
_ATTEMPTS = 3
"""Maximum number of starts if another program takes the chosen port each time."""


class SecretMaker(Protocol):
    """Makes the secrets of a service for one start."""

    def __call__(self, *, keep: bool) -> Mapping[str, str]:
        """Return them, the last ones if `keep`: the service ended without being stopped, so its clients may go on."""
        ...


@dataclass(frozen=True)
class Service:
    """How to run a server.

    In `command` and in the values of `env`, `{port}` is replaced by its port; in `env` also `{folder}` by its folder.
    """

    name: str
    command: tuple[str, ...]
    health_path: str
    env: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    """The port that it gets if that is free."""
    secrets: SecretMaker | None = None
    """Returns more variables for its environment, which are in no record; called at each start."""
    stop_grace_s: float = STOP_GRACE_S
    silence_s: float = 10.0
    """It is restarted if it does not answer for so long."""


@dataclass(frozen=True)
class ServiceRecord:
    """The state file of a service: its process while it runs, and its port, which the next start uses again."""

    name: str
    port: int
    command: tuple[str, ...]
    health_path: str
    pid: int | None = None
    identity: str | None = None
    started_at: str | None = None
    stop_grace_s: float = STOP_GRACE_S

    @property
    def url(self) -> str:
        """URL of the server, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Return whether the process that we started is still running."""
        return self.pid is not None and self.identity is not None and process_fingerprint(self.pid) == self.identity


def load(folder: Path) -> ServiceRecord | None:
    """Return the record of the service in `folder`, or None if it is missing or not valid (the next start replaces it)."""
    try:
        values = json.loads(read_text(folder / "state.json"))
        record = ServiceRecord(**(values | {"command": tuple(values["command"])}))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s is not valid and is ignored: %s", folder / "state.json", error)
        return None
    valid = isinstance(record.port, int) and isinstance(record.pid, int | None)
    return record if valid else None


def save(folder: Path, record: ServiceRecord) -> None:
    """Write the state file atomically, readable by its owner only."""
    temporary = folder / "state.json.tmp"
    with writing_home(temporary):
        temporary.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n", "utf-8")
        temporary.chmod(0o600)
        temporary.replace(folder / "state.json")


writing_home = partial(writing, remedy="set PAIRMILL_HOME to a folder that you own")
"""Name what in the home cannot be written. Raises: as `writing`."""


@contextlib.contextmanager
def lock(services: Path, patience_s: float = _LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold the lock that a process needs to start and stop services in this folder.

    Raises:
        ServiceError: another process held the lock for `patience_s`.
        ConfigError, StorageError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    file_lock = FileLock(services / "lock", timeout=patience_s)
    with writing_home(services):
        services.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with waiting("another process starts or stops the servers", deadline=time.time() + patience_s):
                file_lock.acquire()
        except Timeout:
            held = f"another process has held {services / 'lock'} for {patience_s:.0f} s"
            raise ServiceError(f"{held}; wait until it has finished, or stop it") from None
    try:
        yield
    finally:
        file_lock.release()


def answers(port: int, health_path: str, timeout_s: float = 2.0) -> bool:
    """Return whether a loopback server answers its health path with 2xx; no proxy is used."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)  # noqa: TID251  asks our own servers on 127.0.0.1
    try:
        connection.request("GET", health_path)
        response = connection.getresponse()
        response.read(65536)
        return 200 <= response.status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_healthy(folder: Path, record: ServiceRecord) -> bool:
    """Return whether the recorded process is alive and answers itself, rather than another program on its port."""
    return record.alive and answers(record.port, record.health_path) and is_listening(str(folder), record.port)


def ensure_running(
    services: Path, required: Sequence[Service], timeout_s: float, *, same_command: bool = False
) -> list[ServiceRecord]:
    """Start in parallel the services of `required` that are not healthy, and return when all are healthy.

    Args:
        services: the folder whose `lock` the caller holds.
        required: the services that should run.
        timeout_s: maximum time to wait for all of them.
        same_command: restart a healthy server that runs with another command.

    Raises:
        ServiceError: a server ended or did not answer in time. It was stopped; the message has the end of its log.
    """
    records = {}
    for service in required:
        folder = services / service.name
        record = load(folder)
        changed = same_command and record is not None and record.command != service.command
        if record is None or not record.alive or changed or _hangs(folder, record, service.silence_s):
            record = _restart(folder, service, record)
        records[service.name] = record
    _wait_until_healthy(services, {service.name: service for service in required}, records, timeout_s)
    return list(records.values())


def stop(folder: Path, record: ServiceRecord) -> ServiceRecord:
    """End the service's processes, after checking that they are ours, and return the record, which keeps the port."""
    terminate(record.pid if record.alive else None, str(folder), grace_s=record.stop_grace_s)
    stopped = dataclasses.replace(record, pid=None, identity=None, started_at=None)
    save(folder, stopped)
    return stopped


def rotate_log(folder: Path, limit: int = LOG_BYTES) -> None:
    """Move what a server has logged to log.1 if it is long. The server may run: it appends to the file, which is emptied.

    A line that is written at the same time may be lost.
    """
    log = folder / "log"
    if log.exists() and log.stat().st_size > limit:
        shutil.copyfile(log, folder / "log.1")
        (folder / "log.1").chmod(0o600)
        os.truncate(log, 0)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `environ` that a server gets: those of a job that do not change how our servers work."""
    return without_settings(select_job_environment(environ, added=False))


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without variables that would change how our servers work.

    A user's PREFECT_API_URL or MLFLOW_BACKEND_STORE_URI is for clients. PYTHONPATH may shadow
    modules (as the backport of `dataclasses` does), and with PYTHONWARNINGS=error a server would
    end at its first deprecation warning.
    """
    harmless = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8", "PYTHONIOENCODING"}
    removed = ("PREFECT_", "MLFLOW_", "_MLFLOW_", "PYTHON", "UVICORN_", "GUNICORN_")
    kept = {name: value for name, value in environ.items() if name in harmless or not name.startswith(removed)}
    # The working directory holds a server's data, so Python must not import from it.
    return kept | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _hangs(folder: Path, record: ServiceRecord, silence_s: float) -> bool:
    """Return whether a running server, after its start, does not answer for `silence_s`."""
    age = datetime.now(UTC) - datetime.fromisoformat(record.started_at or "1970-01-01T00:00:00+00:00")
    if age < timedelta(seconds=START_S):
        return False  # it may still be starting: the process that started it may have been killed meanwhile
    deadline = time.monotonic() + silence_s
    while not is_healthy(folder, record):
        if not record.alive or time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


def _restart(folder: Path, service: Service, record: ServiceRecord | None) -> ServiceRecord:
    """End the service's remaining processes and start it, on its last port if that is free."""
    with writing_home(folder):
        folder.mkdir(exist_ok=True, mode=0o700)
    terminate(record.pid if record and record.alive else None, str(folder), grace_s=service.stop_grace_s)
    port = _port(record, service)
    preferred = record.port if record else service.port
    if preferred is not None and port != preferred:
        user = describe_listener(preferred)
        logger.warning("%s: %s uses port %d, so it starts on %d", service.name, user, preferred, port)
    log = folder / "log"
    env = clean_environment(os.environ)
    for name, value in service.env.items():
        env[name] = value.replace("{port}", str(port)).replace("{folder}", str(folder))
    if service.secrets is not None:
        with writing_home(folder):
            env |= service.secrets(keep=record is not None and record.pid is not None)
    env[MARK] = str(folder)
    command = [word.replace("{port}", str(port)) for word in service.command]
    started_at = format_now()
    with writing_home(log):
        rotate_log(folder)
        with log.open("a", encoding="utf-8") as output:
            output.write(f"--- {started_at} pairmill starts {service.name} on port {port}\n")
    try:
        pid = spawn(command, cwd=folder, env=env, log=log)
    except OSError as error:
        raise ServiceError(f"{service.name} could not be started: {error}") from error
    record = ServiceRecord(
        service.name,
        port,
        service.command,
        service.health_path,
        pid,
        process_fingerprint(pid) or "dead",
        started_at,
        service.stop_grace_s,
    )
    try:
        save(folder, record)
    except PairmillError:
        # No later command would find a server without a record.
        terminate(pid, str(folder), grace_s=STOP_GRACE_S)
        raise
    logger.info("%s: starting on port %d (pid %d)", service.name, port, pid)
    return record


def _port(record: ServiceRecord | None, service: Service) -> int:
    """Return the last port, which bookmarks and environments may name, else the usual one, else any free port."""
    deadline = time.monotonic() + _RELEASE_S
    while record and not is_port_free(record.port) and time.monotonic() < deadline:
        time.sleep(0.05)
    return choose_port(record.port if record else None, service.port)


def _wait_until_healthy(
    services: Path, required: Mapping[str, Service], records: dict[str, ServiceRecord], timeout_s: float
) -> None:
    """Poll until all services are healthy; a server whose port another program took meanwhile starts again on another."""
    pending, began = dict.fromkeys(records, 1), time.monotonic()
    with contextlib.ExitStack() as stack:
        waits = {name: stack.enter_context(contextlib.ExitStack()) for name in records}
        for name, record in records.items():
            reason = f"the {name} server starts (process {record.pid}; its log is {services / name / 'log'})"
            waits[name].enter_context(waiting(reason, deadline=time.time() + timeout_s))
        while pending:
            for name, attempt in list(pending.items()):
                folder, record = services / name, records[name]
                waited = time.monotonic() - began
                if is_healthy(folder, record):
                    del pending[name]
                    waits[name].close()
                elif not record.alive or waited >= timeout_s:
                    # The other program may have ended, too, before we look.
                    taken = not is_port_free(record.port) or "already in use" in str(tail(folder / "log"))
                    if not taken or attempt == _ATTEMPTS or waited >= timeout_s:
                        _give_up(folder, record, waited)
                    records[name] = _restart(folder, required[name], record)
                    pending[name] = attempt + 1
            time.sleep(0.05)


def _give_up(folder: Path, record: ServiceRecord, waited: float) -> NoReturn:
    """Stop a server that does not start, and raise an error with the last lines that it logged before."""
    problem = "is alive but does not answer, and was stopped" if record.alive else "ended"
    lines = "\n".join(f"  {line}" for line in tail(folder / "log"))  # its shutdown logs errors of its own
    stop(folder, record)
    raise ServiceError(
        f"{record.name} {problem} after {waited:.0f} s ({record.url}{record.health_path}). The last lines of"
        f" {folder / 'log'}:\n{lines}"
    )


def tail(log: Path) -> list[str]:
    """Return the last 15 lines of a log, of at most 16 KiB."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - 16384))
            return handle.read().decode(errors="replace").splitlines()[-15:]
    except OSError:
        return ["(no log)"]


MARK = "PAIRMILL_SERVICE"
"""Environment variable that holds the folder of the service that a process belongs to."""


def find_marked(mark: str) -> list[int]:
    """Return the pids of the running processes that have `MARK=mark` in their environment."""
    import psutil  # which most commands need not

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
    # A process that ends loses its environment before its pid, so those that were found are asked by their pids too.
    ended = dict[int, str | None]()
    for sign, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                os.killpg(pid, sign)
        for member in find_marked(mark):
            ended[member] = process_fingerprint(member)
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(member) != pid:  # the group already got the signal
                    os.kill(member, sign)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            alive = any(found is not None and process_fingerprint(member) == found for member, found in ended.items())
            if not alive and not find_marked(mark) and (pid is None or process_fingerprint(pid) is None):
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
    if not sys.platform.startswith("linux"):
        return True
    return any(port in _listening_ports(pid) for pid in find_marked(mark))


def describe_listener(port: int) -> str:
    """Return what listens on a port, for messages: a service of ours, with its home, or else another program."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's process, or one that has just ended
            folder = process.environ().get(MARK)
            if folder and port in _listening_ports(process.pid):
                return f"the server {Path(folder).name} of the home {Path(folder).parent.parent}"
    return "another program"


def _listening_ports(pid: int) -> set[int]:
    import psutil

    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:  # it has just ended
        return set()
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}
