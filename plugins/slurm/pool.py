"""Use a SLURM cluster as the pool of a stage (`execution.engine = "slurm"`): array jobs over its tasks.

A thread submits what has come together, polls the store for outcomes, and squeue for array tasks that ended without. SLURM
itself repeats the tasks of lost nodes and preempted ones; a task that is repeated writes the same bytes.
"""

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from dataops.store import Store
from plugins.slurm.config import SlurmConfig
from plugins.slurm.scheduler import (
    ENDED,
    LOST,
    UNLISTED,
    VISIBLE_SECONDS,
    cancel,
    encode_call,
    explain_end,
    name_job,
    submit,
    watch_states,
)
from plugins.slurm.task import decode_outcome
from tasks.engine.context import MachineLost, TaskPool, begin
from tasks.engine.process_guard import finish_first

logger = logging.getLogger(__name__)

ARRAY_CALLS = 500
"""Maximum number of calls of an array. SLURM's own limits are 1,001 tasks of an array, and 4 MB of a script."""
GATHER_SECONDS = 0.3
"""Time after a call in which others may follow into the same array."""


@dataclass
class _Call:
    job_name: str
    line: str
    future: Future[Any] = field(default_factory=Future)
    element: tuple[str, str] | None = None
    """Id and job name of the array task that makes it; None before it is submitted."""
    is_alone: bool = False
    """Whether that array task makes no other call."""
    again: bool = False
    """Whether its worker died before."""


class SlurmPool(TaskPool):
    """Runs the calls of tasks.engine.map_parts in array jobs.

    Args:
        limit: maximum number of array tasks at a time.
        visible_seconds: time until an outcome that was written is listed.
    """

    def __init__(self, config: SlurmConfig, store: Store, limit: int | None, visible_seconds: float = VISIBLE_SECONDS):
        self._config, self._store, self._limit, self._visible_seconds = config, store, limit, visible_seconds
        self._token, self._calls = secrets.token_hex(4), dict[str, _Call]()  # by the names of their outcomes
        self._states, self._ended, self._shown = watch_states(), dict[tuple[str, str], float](), ""
        self._jobs, self._names, self._number = list[tuple[str, str]](), set[str](), 0
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._is_closed = False
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call of `map_parts`: its arguments are a function, the store, stage and key of the draft, and so on.

        Raises: the error by which the pool broke.
        """
        return self._submit(fn, args, kwargs, again=False)

    def submit_again(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Submit a call whose worker died, with all the memory of its node. Raises: as `submit`."""
        return self._submit(fn, args, {}, again=True)

    def _submit(self, fn: Callable[..., Any], args: Any, kwargs: Any, *, again: bool) -> Future[Any]:
        stage, key = args[2:4]
        call = _Call(name_job(self._store, stage, key), encode_call(fn, args, kwargs), again=again)
        with self._lock:
            if self._broken:
                raise self._broken
            self._number += 1
            self._calls[f"{stage}/{key}/_work/slurm-{self._token}/{self._number}.json"] = call
        self._wake.set()
        return call.future

    def _run(self) -> None:
        while not self._is_closed:
            if self._wake.wait(self._config.poll_seconds):
                time.sleep(GATHER_SECONDS)
                self._wake.clear()
            try:
                self._step()
            except Exception as error:
                with self._lock:
                    self._broken, self._is_closed = error, True
                for name in list(self._calls):
                    self._end(name, error)

    def _step(self) -> None:
        if any(call.element for call in self._calls.copy().values()):
            states = next(self._states)
            self._collect()
            for name, call in self._calls.copy().items():
                if call.element:
                    self._check(name, call, call.element, states.get(call.element, (UNLISTED,))[0])
            self._show(states)
        new = {name: call for name, call in self._calls.copy().items() if not call.element}
        free = len(new) if self._limit is None else self._limit - len(self._running())
        if new and free > 0 and not self._is_closed:
            self._submit_new(new, free)

    def _running(self) -> set[tuple[str, str]]:
        return {call.element for call in self._calls.copy().values() if call.element}

    def _collect(self) -> None:
        """Set the results of calls whose outcomes are in the store."""
        for folder in {name.rpartition("/")[0] for name in self._calls.copy()}:
            names = self._store.names(folder)
            for name in names:
                if name in self._calls and (data := self._store.find(name)) is not None:
                    self._end(name, decode_outcome(data))
            self._store.delete(names)

    def _end(self, name: str, result: Any) -> None:
        call = self._calls.pop(name, None)
        if call is None:  # it was killed meanwhile
            return
        future = call.future
        if begin(future):
            (future.set_exception if isinstance(result, Exception) else future.set_result)(result)

    def _check(self, name: str, call: _Call, element: tuple[str, str], state: str) -> None:
        """Notice that a call has begun; fail it if its array task ended without its outcome."""
        if state == "RUNNING" and call.is_alone:
            begin(call.future)
        if state not in (*ENDED, *LOST):
            self._ended.pop(element, None)
            return
        since = self._ended.setdefault(element, time.monotonic())
        waits = state in ("COMPLETED", "PREEMPTED", UNLISTED)  # for its outcome, or SLURM requeues it
        if not waits or time.monotonic() > since + self._visible_seconds:
            kind = MachineLost if state in LOST else BrokenProcessPool
            self._end(name, kind(explain_end(*element, state)))

    def _show(self, states: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        counts = Counter(" ".join(states.get(one, ("not listed",))) for one in self._running())
        if (shown := ", ".join(f"{number:,} {state}" for state, number in sorted(counts.items()))) != self._shown:
            self._shown = shown
            logger.info("SLURM tasks: %s", shown or "all have ended")

    def _submit_new(self, new: dict[str, _Call], free: int) -> None:
        again = next(iter(new.values())).again
        batch = [(name, call) for name, call in new.items() if call.again == again][:ARRAY_CALLS]
        name, elements = batch[0][1].job_name, min(len(batch), free)
        if name not in self._names:  # this run holds the lease of the snapshot, so such a job is that of a killed run
            self._names.add(name)
            cancel("--me", name)
        options = [*self._config.arguments(), f"--cpus-per-task={self._config.cpus}", f"--array=0-{elements - 1}"]
        options += ["--mem=0"] if again else []
        calls = [f"{outcome} {call.line}" for outcome, call in batch]
        job = submit(name, options, self._store, calls, elements)
        self._jobs.append((job, name))
        for place, (_, call) in enumerate(batch):
            call.element, call.is_alone = (f"{job}_{place % elements}", name), len(batch) == elements

    def kill(self, future: Future[Any]) -> None:
        """Cancel the array task of a call that has begun."""
        for name, call in self._calls.copy().items():
            if call.future is future and not future.cancel() and call.element:
                cancel(*call.element)
                self._end(name, BrokenProcessPool())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel all jobs of the pool."""
        with finish_first():
            self._is_closed = True
            self._wake.set()
            self._thread.join()
            for job in self._jobs:
                cancel(*job)
