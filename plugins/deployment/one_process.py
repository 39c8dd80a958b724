"""One process at a time works on a flow run, and one flow run at a time on a deployment whose limit is one.

Prefect counts states and no processes. A flow run is taken for dead when its heartbeats are late, and anybody may set its
state: then its place is free, and it may begin again, while its process lives. So each process locks a file of its flow run
from its start to its end, and one of its deployment while it works. Whoever finds a file locked kills the process that
Prefect has given up, and waits for one that still runs in Prefect. The files are known on this machine only.
"""

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import psutil
from pydantic import ValidationError

from dataops.config import FrozenModel
from dataops.home import SERVERS, home, private_folder
from dataops.process import pid_namespace, process_fingerprint

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""A process is killed if its flow run is given up at two looks: one that has just ended unlocks its file in between."""
WORKS = {"RUNNING", "CANCELLING", "PAUSED"}
"""Types of states in which the process of a flow run may work."""


class Holder(FrozenModel):
    """The process that locks a file."""

    flow_run_id: str
    pid: int
    place: str
    process: str | None
    """As in tasks.engine.lease.Lease."""

    @classmethod
    def of_this_process(cls, flow_run_id: str) -> "Holder":
        """Return this process, which works on a flow run."""
        pid = os.getpid()
        return cls(flow_run_id=flow_run_id, pid=pid, place=pid_namespace(), process=process_fingerprint(pid))

    def kill(self) -> None:
        """Kill it with its workers, if it lives in this process's pid namespace. It may be stopped, or about to commit."""
        if self.place != pid_namespace() or process_fingerprint(self.pid) != self.process:
            return
        logger.warning("killing process %d of flow run %s, which Prefect has given up", self.pid, self.flow_run_id)
        with suppress(psutil.Error):
            parent = psutil.Process(self.pid)
            for one in [parent, *parent.children(recursive=True)]:
                with suppress(psutil.Error):
                    one.send_signal(signal.SIGKILL)


@contextmanager
def hold(name: str, flow_run_id: str, is_given_up: Callable[[str], bool]) -> Iterator[None]:
    """Hold the lock `name` inside the `with`, for the work on a flow run.

    Args:
        is_given_up: whether Prefect has given up the flow run of that id, whose process holds the lock: it is killed.
    """
    path = private_folder(home() / SERVERS / "working") / f"{name}.lock"
    seen: Holder | None = None
    suspect: Holder | None = None
    while True:
        file = path.open("a+b")
        if _lock(file):
            with suppress(FileNotFoundError):
                if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                    break  # else whoever held it has deleted it in between
        else:
            holder = _read(file)
            if holder and holder != seen:
                logger.warning("waiting for process %d, which works on flow run %s", holder.pid, holder.flow_run_id)
            given_up = holder if holder and is_given_up(holder.flow_run_id) else None
            if given_up and given_up == suspect:
                given_up.kill()
            seen, suspect = holder, given_up
            time.sleep(POLL_SECONDS)
        file.close()
    with file:
        file.truncate(0)
        file.write(Holder.of_this_process(flow_run_id).model_dump_json().encode())
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: IO[bytes]) -> Holder | None:
    """Return who holds the lock; None if it has not written it yet."""
    file.seek(0)
    try:
        return Holder.model_validate_json(file.read())
    except ValidationError:
        return None


def guard_engine() -> None:
    """Let Prefect's engine of this process hold the lock of a deployment while it works, and report no crash of another.

    An attempt that loses the lease of its place crashes, and Prefect forces that state upon its flow run. By then this is
    dead already, or runs again: the retry would be ended, and begun again beside itself.
    """
    from prefect.flow_engine import FlowRunEngine

    engines: Any = FlowRunEngine
    work, crash = engines.call_flow_fn, engines.handle_crash

    def call_flow_fn(engine: Any) -> Any:
        run = engine.flow_run
        if run.deployment_id is None or _limit(engine.client, run) != 1:  # a flow that the flow calls has none
            return work(engine)
        with hold(f"deployment-{run.deployment_id}", str(run.id), lambda other: not _works(engine.client, other)):
            return work(engine)

    def handle_crash(engine: Any, error: BaseException) -> None:
        with suppress(Exception):  # the server does not answer
            now = engine.client.read_flow_run(engine.flow_run.id)
            engine.short_circuit = now.run_count != engine.flow_run.run_count or now.state.type not in WORKS
        crash(engine, error)

    engines.call_flow_fn, engines.handle_crash = call_flow_fn, handle_crash


def _limit(client: Any, run: Any) -> int | None:
    """Return the limit of a flow run's deployment; 1 if the server does not answer."""
    try:
        limit = client.read_deployment(run.deployment_id).global_concurrency_limit
    except Exception:  # the flow is to run
        logger.warning("cannot read the limit of deployment %s", run.deployment_id, exc_info=True)
        return 1
    return limit.limit if limit else None


def _works(client: Any, flow_run_id: str) -> bool:
    """Return whether a flow run runs in Prefect; also True if the server does not answer."""
    from prefect.exceptions import ObjectNotFound

    try:
        state = client.read_flow_run(flow_run_id).state
    except ObjectNotFound:
        return False
    except Exception:  # the next look asks again
        logger.warning("cannot read the state of flow run %s", flow_run_id, exc_info=True)
        return True
    return state is not None and state.type in WORKS
