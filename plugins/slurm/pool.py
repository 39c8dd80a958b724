"""Use a SLURM cluster as the pool of a stage (`execution.engine = "slurm"`): array jobs over its tasks.

A thread submits what has come together, polls the store for outcomes, and polls squeue for array tasks that ended without.
SLURM itself repeats the tasks of lost nodes and preempted ones; a task that is repeated writes the same bytes.
"""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from dataops.errors import ConfigError, JobFailed, ServiceError
from dataops.store import Store
from plugins.slurm.config import SlurmConfig
from plugins.slurm.scheduler import (
    ENDED,
    REQUEUE_HELD,
    cancel,
    encode_call,
    explain_end,
    find_states,
    list_nodes,
    name_job,
    submit,
)
from plugins.slurm.task import decode_outcome
from tasks.engine.process_guard import finish_first

logger = logging.getLogger(__name__)

ARRAY_TASKS, SCRIPT_BYTES = 1000, 2 << 20
"""SLURM's own limits are 1,001 tasks of an array, and 4 MB of a script."""
GATHER_SECONDS = 0.3
"""Time after a call in which others may follow into the same array."""


@dataclass(frozen=True)
class Times:
    """Times of a pool, in seconds."""

    poll: float = 5.0
    visible: float = 90.0
    """Until an outcome that was written is listed: NFS keeps the contents of a folder for up to 60 s."""
    patience: float = 600.0
    """In which SLURM's controller, which may be started again, must answer."""


@dataclass
class _Call:
    folder: str
    label: str
    line: str
    future: Future[Any]
    name: str
    """Of its job."""
    element: str | None = None
    """Id of the array task that makes it."""


class SlurmPool(Executor):
    """Runs the calls of tasks.engine.map_parts in array jobs. Created by `slurm_pool`."""

    def __init__(self, config: SlurmConfig, store: Store, limit: int | None, times: Times):
        self._config, self._store, self._limit, self._times = config, store, limit, times
        self._token, self._number = secrets.token_hex(4), 0
        self._calls: dict[int, _Call] = {}
        self._jobs, self._names = list[str](), set[str]()
        self._ended: dict[str, float] = {}
        self._shown: Counter[str] = Counter()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._is_closed, self._broken = False, None
        self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="slurm-pool", daemon=True)
        self._thread.start()

    _broken: BaseException | None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call of `map_parts`: its arguments are a function, the store, stage and key of the draft, and so on.

        Raises: the error by which the pool broke.
        """
        _, _, stage, key, *_, task = args
        call = _Call(
            folder=f"{stage}/{key}/_work/slurm-{self._token}",
            label=f"{stage} {task.id}",
            line=encode_call((fn, args, kwargs)),
            future=Future(),
            name=name_job(self._store, stage, key),
        )
        with self._lock:
            if self._broken:
                raise self._broken
            self._number += 1
            self._calls[self._number] = call
        self._wake.set()
        return call.future

    def _run(self) -> None:
        while not self._is_closed:
            if self._wake.wait(self._times.poll):
                time.sleep(GATHER_SECONDS)
                self._wake.clear()
            try:
                self._step()
                self._answered = time.monotonic()
            except Exception as error:
                if isinstance(error, ServiceError) and time.monotonic() < self._answered + self._times.patience:
                    logger.warning("%s", error)
                    continue
                self._break(error)

    def _step(self) -> None:
        with self._lock:
            self._calls = {number: call for number, call in self._calls.items() if not call.future.cancelled()}
            calls = dict(self._calls)
        if not calls or self._is_closed:
            return
        states = find_states() if any(call.element for call in calls.values()) else {}
        self._collect(calls)
        active = {call.element for call in calls.values() if call.element and not call.future.done()}
        for element in active:
            self._check(element, *states.get(element, ("COMPLETED", "")), calls)
        self._show(Counter(f"{state} ({reason})" for one, (state, reason) in states.items() if one in active))
        new = {number: call for number, call in calls.items() if call.element is None}
        free = len(new) if self._limit is None else self._limit - len(active)
        if new and free > 0:
            self._submit_new(new, free)

    def _collect(self, calls: dict[int, _Call]) -> None:
        """Set the results of calls whose outcomes are in the store."""
        for folder in {call.folder for call in calls.values() if call.element}:
            names = {int(PurePosixPath(name).stem): name for name in self._store.names(folder)}
            for number in names.keys() & calls.keys():
                if (data := self._store.find(names[number])) is None:
                    continue
                try:
                    record = decode_outcome(data)
                except Exception as error:
                    self._end(number, error)
                else:
                    self._end(number, record)
            self._store.delete(list(names.values()))

    def _end(self, number: int, result: Any) -> None:
        with self._lock:
            call = self._calls.pop(number)
        if call.future.set_running_or_notify_cancel():
            call.future.set_exception(result) if isinstance(result, Exception) else call.future.set_result(result)

    def _check(self, element: str, state: str, reason: str, calls: dict[int, _Call]) -> None:
        """Fail the calls of an array task that ended without their outcomes."""
        if state not in ENDED and REQUEUE_HELD not in reason:
            return
        since = self._ended.setdefault(element, time.monotonic())
        if state == "COMPLETED" and time.monotonic() < since + self._times.visible:
            return
        for number, call in calls.items():
            if call.element == element and not call.future.done():
                text = explain_end(call.label, element, state, call.name)
                self._end(number, JobFailed(text, exit_code=75))

    def _show(self, states: Counter[str]) -> None:
        if states != self._shown:
            self._shown = states
            logger.info("SLURM: %s", ", ".join(f"{number:,} {state}" for state, number in sorted(states.items())))

    def _submit_new(self, new: dict[int, _Call], free: int) -> None:
        """Submit calls of one snapshot in an array job."""
        name = next(iter(new.values())).name
        batch, size = dict[int, _Call](), 0
        for number, call in new.items():
            if call.name != name or size > SCRIPT_BYTES:
                break
            batch[number], size = call, size + len(call.line)
        elements = min(len(batch), free, ARRAY_TASKS)
        if name not in self._names:  # this run holds the lease of the snapshot, so such a job is that of a killed run
            self._names.add(name)
            cancel("--me", f"--name={name}")
        header = {"store": self._store.uri, "folder": next(iter(batch.values())).folder}
        header |= {"numbers": [*batch], "elements": elements}
        options = (*self._config.arguments(), f"--cpus-per-task={self._config.cpus}", f"--array=0-{elements - 1}")
        job = submit(name, options, "", header, [call.line for call in batch.values()])
        self._jobs.append(job)
        for place, call in enumerate(batch.values()):
            call.element = f"{job}_{place % elements}"
        if len(batch) < len(new):
            self._wake.set()

    def _break(self, error: BaseException) -> None:
        with self._lock:
            self._broken = error
            waiting, self._calls = list(self._calls.values()), {}
        for call in waiting:
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)
        self._is_closed = True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel all jobs of the pool."""
        with finish_first():
            self._is_closed = True
            self._wake.set()
            self._thread.join()
            if self._jobs:
                cancel(*self._jobs)


@contextmanager
def slurm_pool(
    config: SlurmConfig, store: Store, workers: int | None, times: Times | None = None
) -> Iterator[tuple[SlurmPool, int, int]]:
    """Yield a pool, the number of tasks at a time, and the largest number on one node; at the end its jobs are cancelled.

    Raises: ConfigError if SLURM is not here, the partition does not exist, or no node has the cores of a task;
    ServiceError (75) if the controller does not answer.
    """
    slots = [node.cpus // config.cpus for node in list_nodes(config)]
    if not any(slots):
        raise ConfigError(
            f"no node of the partition has {config.cpus} cores for a task: lower execution.slurm.cpus, or name another "
            "execution.slurm.partition"
        )
    number = min(workers or sum(slots), sum(slots))
    logger.info("SLURM: %d nodes, %d tasks at a time", len(slots), number)
    pool = SlurmPool(config, store, workers, times or Times(config.poll_seconds))
    try:
        yield pool, number, min(number, max(slots))
    finally:
        pool.shutdown()
