"""Lease a snapshot to one run: of several runs that need it, one makes it and the others wait.

The lease of generation n is the object `<stage>/<key>/_work/lease-<n>.json`, created by a conditional put, so that each
generation has one winner. Its holder writes it again every 10 s with a higher beat. Another run takes over, with
the next generation, if the lease was released, if its process has ended (on this machine), or if its beat has not changed
for 60 s (LeaseTimes) by the clock of the waiting run: clocks of two machines are never compared. A holder that lost its
lease finds out at its next beat, part or commit (Draft.check_fence), and stops with LeaseLost.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Literal

from pydantic import ValidationError

from dataops.config import FrozenModel
from dataops.errors import ConfigError, LeaseLost, PairmillError, StorageError
from dataops.formatting import format_now
from dataops.messages.waiting import waiting
from dataops.process import pid_namespace, process_fingerprint
from dataops.snapshot import Draft, Fence, Manifest
from dataops.store import Store
from tasks.engine.context import Context

logger = logging.getLogger(__name__)

_ENDED: set[str] = set()
"""Tokens of leases that this process no longer holds, also where the store could not be updated."""


class Lease(FrozenModel):
    """The run that makes, or last made, a snapshot."""

    generation: int
    token: str
    """Random, so that a lease of the same generation after the snapshot was cleared is another one."""
    run_id: str | None
    host: str
    pid: int
    place: str
    """Namespace of `pid` (dataops.process.pid_namespace)."""
    process: str | None
    """Fingerprint of the process, since a pid is used again (dataops.process.process_fingerprint)."""
    since: str
    """Start by the holder's clock; only for messages."""
    beat: int = 0
    state: Literal["held", "released"] = "held"

    def is_dead(self) -> bool:
        """Return whether it was released or its process has ended; of another machine's process nothing is known."""
        if self.state == "released" or self.token in _ENDED:
            return True
        return self.place == pid_namespace() and process_fingerprint(self.pid) != self.process

    def __str__(self) -> str:
        return f"run {self.run_id or '(unnamed)'}, process {self.pid} on {self.host}, since {self.since}"


class HeldLease:
    """A lease that this process holds, with the draft and the context to use, and the thread that renews it."""

    def __init__(self, draft: Draft, context: Context, lease: Lease):
        self.lease = lease
        fence = Fence(generation=lease.generation, token=lease.token)
        self.draft = Draft(draft.store, draft.stage, draft.key, fence)
        self.context = replace(context, progress=self._progress)
        self._show_progress = context.progress
        self._lost: LeaseLost | None = None
        self._is_deleted = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{draft.stage}", daemon=True)
        self._thread.start()

    def _progress(self, done: int, total: int, line: str) -> None:
        if self._lost is not None:
            raise self._lost
        self._show_progress(done, total, line)

    def _keep(self) -> None:
        while not self._ended.wait(self.context.lease_times.beat):
            try:
                self.draft.check_fence()
                self._put(self.lease.model_copy(update={"beat": self.lease.beat + 1}))
            except LeaseLost as lost:
                self._lost = lost
                return
            except PairmillError as error:
                logger.warning("%s %s: the lease could not be renewed: %s", self.draft.stage, self.draft.key, error)

    def _put(self, lease: Lease) -> None:
        self.lease = lease
        self.draft.store.put(self.draft.lease_name(lease.generation), lease.model_dump_json().encode())

    def stop(self) -> None:
        """Stop renewing the lease."""
        self._ended.set()
        self._thread.join()

    def commit(self, manifest: Manifest) -> Manifest:
        """Commit the snapshot, which deletes the lease."""
        self.stop()  # a renewal after the commit would leave a lease behind
        committed = self.draft.commit(manifest)
        self._is_deleted = True
        return committed

    def release(self) -> None:
        """Let the next run begin; if the snapshot is complete, delete the lease."""
        self.stop()
        try:
            if self._is_deleted:
                return
            with suppress(LeaseLost):  # the commit cleared it, or another run has taken over
                self.draft.check_fence()
                if self.draft.is_complete():
                    self.draft.store.delete_tree(self.draft.path("_work"))
                else:
                    self._put(self.lease.model_copy(update={"state": "released"}))
        except PairmillError as error:  # the error that ended the stage says more
            logger.warning("%s %s: the lease could not be released: %s", self.draft.stage, self.draft.key, error)
        finally:
            _ENDED.add(self.lease.token)  # last, or another thread takes the lease over before it is released


@contextmanager
def hold_lease(
    draft: Draft, context: Context, *, wait: bool = True, remake: bool = False
) -> Iterator[HeldLease | None]:
    """Hold the lease of a snapshot inside the `with`; None if the snapshot is complete.

    Args:
        wait: wait for a live run that holds it, instead of raising.
        remake: take the lease of a complete snapshot too, to clear it.

    Raises: ConfigError that names the run which holds it, without `wait`.
    """
    lease = _acquire(draft, context, wait, remake)
    if lease is None:
        yield None
        return
    held = HeldLease(draft, context, lease)
    try:
        yield held
    finally:
        held.release()


def find_holder(store: Store, stage: str, key: str) -> Lease | None:
    """Return the lease of the run that makes a snapshot now, or None. A holder on another machine counts as alive.

    It is dead if two calls more than `LeaseTimes.stale` seconds apart return equal leases.
    """
    newest = _read_newest(Draft(store, stage, key))
    return None if newest is None or newest.is_dead() else newest


def _acquire(draft: Draft, context: Context, wait: bool, remake: bool) -> Lease | None:
    times = context.lease_times
    watch = _LeaseWatch(times.poll)
    announced, began = "", time.time()
    first = _new_lease(context, 1)
    if (remake or not draft.is_complete()) and _create(draft, first):  # mostly there is no lease yet
        return first
    while True:
        if not remake and draft.is_complete():
            return None
        newest = _read_newest(draft)
        if newest is None or newest.is_dead() or watch.seconds_unchanged(newest) >= times.stale:
            if newest is not None and newest.state == "held":
                logger.warning("%s %s: taking over from %s", draft.stage, draft.key, newest)
                time.sleep(times.orphan)
            mine = _new_lease(context, 1 + (newest.generation if newest else 0))
            if _create(draft, mine):
                return mine
            continue
        if not wait and (newest.place == pid_namespace() or watch.changed):
            raise ConfigError(
                f"{draft.stage} {draft.key} is being made by {newest}: stop that run first, or wait for its end"
            )
        if announced != newest.token:
            announced = newest.token
            logger.info("%s %s: waiting for %s, which makes it", draft.stage, draft.key, newest)
        with waiting(f"another process makes {draft.stage} {draft.key}: {newest}", since=began):
            time.sleep(times.poll)


class _LeaseWatch:
    """Measures for how long a lease has not changed, by this process's clock, while the store could be read."""

    def __init__(self, poll_seconds: float) -> None:
        self.changed, self._poll_seconds = False, poll_seconds
        self._unchanged = 0.0
        self._seen: Lease | None = None
        self._read_at = time.monotonic()

    def seconds_unchanged(self, lease: Lease) -> float:
        now = time.monotonic()
        # A long time means that the store did not answer, the holder neither: it does not count.
        passed, self._read_at = min(now - self._read_at, 5 * self._poll_seconds), now
        if self._seen is not None and self._seen.token == lease.token and self._seen != lease:
            self.changed = True
        self._unchanged = self._unchanged + passed if self._seen == lease else 0.0
        self._seen = lease
        return self._unchanged


def _new_lease(context: Context, generation: int) -> Lease:
    return Lease(
        generation=generation,
        token=secrets.token_hex(8),
        run_id=context.run_id,
        host=socket.gethostname(),
        pid=os.getpid(),
        place=pid_namespace(),
        process=process_fingerprint(os.getpid()),
        since=format_now(),
    )


def _create(draft: Draft, lease: Lease) -> bool:
    return draft.store.create(draft.lease_name(lease.generation), lease.model_dump_json().encode())


def _read_newest(draft: Draft) -> Lease | None:
    """Return the lease of the highest generation. Leases are only deleted all together, so there is no gap below it."""
    newest = None
    generation = 1
    while (found := _read(draft, generation)) is not None:
        newest, generation = found, generation + 1
    return newest


def _read(draft: Draft, generation: int) -> Lease | None:
    name = draft.lease_name(generation)
    if draft.store.size(name) is None:
        return None
    try:
        return Lease.model_validate_json(draft.store.read(name))
    except ValidationError:  # emptied by a power loss, which also ended its holder
        return Lease.model_construct(generation=generation, token="", run_id=None, host="", state="released")
    except StorageError:
        if draft.store.size(name) is None:  # cleared in between
            return None
        raise
