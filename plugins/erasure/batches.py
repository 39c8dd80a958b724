"""Map a function over objects of a store: by the workers of the executor where one process would take long.

A task has the names of objects, and that of the object in the store with what it looks for. It changes nothing: what it
returns is in proportion to what it finds.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import repeat
from typing import TypeVar

from dataops.errors import ServiceError
from dataops.snapshot import Input
from dataops.store import Store, open_store
from dataops.trace.requests import STAGE, load_targets
from dataops.trace.targets import Target
from plugins.erasure.scan import Scanner
from plugins.erasure.traces import parse_traces, put_traces
from tasks.engine.context import Context
from tasks.engine.map_parts import shared_workers
from tasks.takedown.holders import Scope, Traces

BATCH_BYTES, OBJECT_BYTES = 256 << 20, 1 << 16
"""Bytes that one task reads by default, where each object counts as so many more."""

Objects = Sequence[tuple[str, int]]
"""Names and sizes of objects of a store."""
T = TypeVar("T")


@dataclass(frozen=True)
class Sought:
    """What a map looks for."""

    traces: Traces
    targets: Sequence[Target] = ()

    @cached_property
    def scanner(self) -> Scanner:
        """The search for the traces in files of any format."""
        return Scanner(self.traces)


@dataclass(frozen=True)
class Place:
    """Where workers read what a map looks for."""

    traces: str
    """Name of the object with the traces."""
    requests: tuple[str, ...] = ()
    """Digests of the requests with the targets."""
    batch_bytes: int = BATCH_BYTES
    """Bytes that one task reads."""


def find_place(scope: Scope) -> Place | None:
    """Return the place that a holder maps with; None: the process of the takedown alone searches."""
    return Place(scope.traces) if scope.traces else None


def map_objects(
    function: Callable[[Store, Sought, Objects], T],
    objects: Objects,
    sought: Sought,
    context: Context,
    place: Place | None,
    *,
    writes: bool = False,
) -> Iterator[T]:
    """Yield what the function returns for each batch of objects, in their order.

    Args:
        function: of a module; it only reads.
        place: where workers read what is sought; None: this process alone maps.
        writes: write the traces there first; else they are there.

    Raises: ServiceError if a worker died.
    """
    batches = list(_cut(objects, place.batch_bytes)) if place else [objects]
    if place is None or len(batches) < 2:
        yield function(context.store, sought, objects)
        return
    if writes:
        put_traces(sought.traces, context.store, place.traces)
    where = (context.store.uri, place, secrets.token_hex(8))
    with shared_workers(replace(context, workers=min(context.workers, len(batches)))) as sharing:
        assert sharing.pool is not None
        try:
            yield from sharing.pool.map(_call, repeat(function), repeat(where), batches)
        except BrokenProcessPool as error:
            raise ServiceError(
                "a worker died during the search (killed, or out of memory); repeat the takedown"
            ) from error


def _cut(objects: Objects, batch_bytes: int) -> Iterator[Objects]:
    """Yield consecutive objects of about so many bytes."""
    batch, size = list[tuple[str, int]](), 0
    for one in objects:
        batch.append(one)
        size += one[1] + OBJECT_BYTES
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _call(function: Callable[[Store, Sought, Objects], T], where: tuple[str, Place, str], objects: Objects) -> T:
    return function(open_store(where[0]), _load(*where), objects)


@lru_cache(maxsize=1)
def _load(store_uri: str, place: Place, map_id: str) -> Sought:
    """Return what a map looks for; each worker reads it once for each map."""
    store = open_store(store_uri)
    requests = [Input(stage=STAGE, key=digest, digest=digest) for digest in place.requests]
    return Sought(parse_traces(store, place.traces), load_targets(store, requests))
