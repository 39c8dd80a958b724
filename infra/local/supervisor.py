"""Starts, heals and stops one loopback server after another, each with a state file, a log and a folder of its own.

    <services>/NAME/state.json   what runs (or ran last) and on which port: written atomically, readable without a lock
    <services>/NAME/log          what it said; the previous one, once long, is log.1
    <services>/NAME/...          its data: the folder is its working directory

Callers hold `locked(<services>)` while they change anything. Knows nothing of Prefect or MLflow.
"""

import contextlib
import dataclasses
import errno
import http.client
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from dataops.errors import ServiceError
from dataops.redaction import without_secrets
from infra.local import processes

logger = logging.getLogger(__name__)

STOP_GRACE_S = 15.0
_LOG_LIMIT = 10 * 2**20  # bytes after which the next start keeps the log as log.1
_LOCK_PATIENCE_S = 300.0
_START_S = 90.0  # younger servers may still be starting
_SILENCE_S = 10.0  # older ones that do not answer for so long are restarted
_RELEASE_S = 1.0
_ATTEMPTS = 3  # how often a start is tried when another program takes the port in between


@dataclass(frozen=True)
class Service:
    """How to run a server.

    In `command` and in the values of `env`, `{port}` becomes its port; in the latter `{folder}` its folder.
    """

    name: str
    command: tuple[str, ...]
    health_path: str
    env: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    """The port that it gets when it is free."""


@dataclass(frozen=True)
class ServiceRecord:
    """The state file of a service: its process while it runs, and the port that it comes back to."""

    name: str
    port: int
    command: tuple[str, ...]
    health_path: str
    pid: int | None = None
    identity: str | None = None
    started_at: str | None = None

    @property
    def url(self) -> str:
        """Address of the server, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the very process that we started still lives."""
        return (
            self.pid is not None
            and self.identity is not None
            and processes.process_fingerprint(self.pid) == self.identity
        )


def load(folder: Path) -> ServiceRecord | None:
    """The record of the service in `folder`; None when there is none or it is unreadable (it is then made anew)."""
    try:
        values = json.loads((folder / "state.json").read_text())
        record = ServiceRecord(**(values | {"command": tuple(values["command"])}))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s: unreadable, taken for absent (%s)", folder / "state.json", error)
        return None
    sound = isinstance(record.port, int) and isinstance(record.pid, int | None)
    return record if sound else None


def save(folder: Path, record: ServiceRecord) -> None:
    """Write the state file atomically, readable by its owner only."""
    temporary = folder / "state.json.tmp"
    with _writing(temporary):
        temporary.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n")
        temporary.chmod(0o600)
        temporary.replace(folder / "state.json")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only file system or a foreign folder into one message with the remedy."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = (
            "free some room, or set PAIRMILL_HOME to another disk"
            if full
            else "set PAIRMILL_HOME to a folder that you own"
        )
        raise ServiceError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


@contextlib.contextmanager
def lock(services: Path, patience_s: float = _LOCK_PATIENCE_S) -> Iterator[None]:
    """Exclusive right to start and stop services under this folder, across processes.

    Raises:
        ServiceError: another process held it for `patience_s`, or the folder cannot be written.
    """
    lock = FileLock(services / "lock", timeout=patience_s)
    with _writing(services):
        services.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            lock.acquire()
        except Timeout:
            raise ServiceError(f"another process has held {services / 'lock'} for {patience_s:.0f} s") from None
    try:
        yield
    finally:
        lock.release()


def answers(port: int, health_path: str, timeout_s: float = 2.0) -> bool:
    """Whether a loopback server answers its health path with 2xx; proxies are not asked."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
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
    """Whether the recorded process lives and it, not a stranger on its port, answers."""
    return (
        record.alive and answers(record.port, record.health_path) and processes.is_listening(str(folder), record.port)
    )


def ensure_running(
    services: Path, wanted: Sequence[Service], timeout_s: float, *, same_command: bool = False
) -> list[ServiceRecord]:
    """Start in parallel those of `wanted` that are not healthy, and return when all are.

    Args:
        services: the folder that is `locked`.
        wanted: what should run.
        timeout_s: how long all together may take.
        same_command: restart a healthy server whose command is another one.

    Raises:
        ServiceError: one died or did not answer in time; it is stopped, and the message ends with its log's last lines.
    """
    records = {}
    for service in wanted:
        folder = services / service.name
        record = load(folder)
        changed = same_command and record is not None and record.command != service.command
        if record is None or not record.alive or changed or _hangs(folder, record):
            record = _restart(folder, service, record)
        records[service.name] = record
    _wait_until_healthy(services, {service.name: service for service in wanted}, records, time.monotonic() + timeout_s)
    return list(records.values())


def stop(folder: Path, record: ServiceRecord) -> ServiceRecord:
    """End the service's processes, verified to be ours, and remember its port."""
    processes.terminate(record.pid if record.alive else None, str(folder), grace_s=STOP_GRACE_S)
    stopped = dataclasses.replace(record, pid=None, identity=None, started_at=None)
    save(folder, stopped)
    return stopped


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what would bend a server of ours: its makers' settings and Python's own.

    A user's PREFECT_API_URL or MLFLOW_BACKEND_STORE_URI is for clients; PYTHONPATH may shadow modules (as the backport
    of `dataclasses` does), and PYTHONWARNINGS=error would end a server at its first deprecation. Nor do secrets come
    through: no server of ours needs one.
    """
    harmless = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8", "PYTHONIOENCODING"}
    bending = ("PREFECT_", "MLFLOW_", "_MLFLOW_", "PYTHON", "UVICORN_", "GUNICORN_")
    kept = {name: value for name, value in environ.items() if name in harmless or not name.startswith(bending)}
    # The working directory holds a server's data, never its code.
    return without_secrets(kept) | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _hangs(folder: Path, record: ServiceRecord) -> bool:
    """Whether a living server, past its start, stays silent for `_SILENCE_S`."""
    age = datetime.now(UTC) - datetime.fromisoformat(record.started_at or "1970-01-01T00:00:00+00:00")
    if age < timedelta(seconds=_START_S):
        return False  # another process started it and was ended before it answered: wait with the others
    deadline = time.monotonic() + _SILENCE_S
    while not is_healthy(folder, record):
        if not record.alive or time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


def _restart(folder: Path, service: Service, record: ServiceRecord | None) -> ServiceRecord:
    """End what is left of the service and start it, on its last port where that is free."""
    with _writing(folder):
        folder.mkdir(exist_ok=True, mode=0o700)
    processes.terminate(record.pid if record and record.alive else None, str(folder), grace_s=STOP_GRACE_S)
    port = _port(record, service)
    hoped = record.port if record else service.port
    if hoped is not None and port != hoped:
        logger.warning("%s: another program holds port %d, so it comes up on %d", service.name, hoped, port)
    log = folder / "log"
    env = clean_environment(os.environ)
    for name, value in service.env.items():
        env[name] = value.replace("{port}", str(port)).replace("{folder}", str(folder))
    env[processes.MARK] = str(folder)
    command = [word.replace("{port}", str(port)) for word in service.command]
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with _writing(log):
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(folder / "log.1")
        with log.open("a") as output:
            output.write(f"--- {started_at} pairmill starts {service.name} on port {port}\n")
    try:
        pid = processes.spawn(command, cwd=folder, env=env, log=log)
    except OSError as error:
        raise ServiceError(f"{service.name} could not be started: {error}") from error
    record = ServiceRecord(
        service.name,
        port,
        service.command,
        service.health_path,
        pid,
        processes.process_fingerprint(pid) or "dead",
        started_at,
    )
    try:
        save(folder, record)
    except ServiceError:
        # Without its record no later command would find it.
        processes.terminate(pid, str(folder), grace_s=STOP_GRACE_S)
        raise
    logger.info("%s: starting on port %d (pid %d)", service.name, port, pid)
    return record


def _port(record: ServiceRecord | None, service: Service) -> int:
    """The last port, for which bookmarks and environments hope, else the usual one, else any."""
    deadline = time.monotonic() + _RELEASE_S
    while record and not processes.is_port_free(record.port) and time.monotonic() < deadline:
        time.sleep(0.05)  # the system may take a moment to release what a killed server held
    return processes.choose_port(record.port if record else None, service.port)


def _wait_until_healthy(
    services: Path, wanted: Mapping[str, Service], records: dict[str, ServiceRecord], deadline: float
) -> None:
    """Poll until every record is healthy, moving a server whose port another program took meanwhile."""
    pending = dict.fromkeys(records, 1)
    while pending:
        for name, attempt in list(pending.items()):
            folder, record = services / name, records[name]
            if is_healthy(folder, record):
                del pending[name]
                continue
            if record.alive and time.monotonic() < deadline:
                continue
            clash = not record.alive and not processes.is_port_free(record.port)
            if not clash or attempt == _ATTEMPTS or time.monotonic() > deadline:
                verdict = "did not answer in time" if record.alive else "ended at once"
                stop(folder, record)
                raise ServiceError(
                    f"{name} {verdict} ({record.url}{record.health_path}). The last lines of {folder / 'log'}:\n"
                    + "\n".join(f"  {line}" for line in tail(folder / "log"))
                )
            records[name] = _restart(folder, wanted[name], record)
            pending[name] = attempt + 1
        time.sleep(0.05)


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log, however long it is."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - 16384))
            return handle.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return ["(no log)"]
