"""Count the requests of filter, and of choose_rows of curate, with batches and partitions of few rows.

Their numbers then grow with the rows as those of a large corpus do. All tasks run in this process, on a folder; each call
of the store counts as one request, and each object of a call for several objects.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.cases.scale_choice import time_choice, write_inspected
from benchmarks.cases.scale_job import Job
from benchmarks.inputs.rows import make_parts
from dataops.snapshot import Counts, Draft, Manifest, Part, content_digest
from dataops.store import FolderStore
from tasks.curate.config import Units
from tasks.engine import exchange
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER, Sizes
from tasks.filter.stage import make as make_filter

UNITS = 8
"""Number of batches and of partitions at the smallest number of rows."""
_CALLS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("size", "read", "put", "put_chunks", "create", "local", "entries"), lambda *_, **__: 1),
    "locals": lambda _, names: len(names),
}
"""Methods of a store, and the number of their requests."""


@contextmanager
def count_requests() -> Iterator[list[int]]:
    """Return a list to which each call of a folder store adds the number of its requests, inside the `with`."""
    found: list[int] = []

    def counted(name: str) -> Callable[..., Any]:
        method, count = getattr(FolderStore, name), _CALLS[name]

        def call(*args: Any, **kwargs: Any) -> Any:
            found.append(count(*args, **kwargs))
            return method(*args, **kwargs)

        return call

    with patch.multiple(FolderStore, **{name: counted(name) for name in _CALLS}):
        yield found


def count_filter(folder: Path, rows: int, unit: int) -> int:
    """Return the requests of filter on so many rows, in batches and partitions of `unit` rows."""
    paths, _ = make_parts(folder / "pairs", rows)
    store = FolderStore(folder / f"filter-{rows}")
    draft = Draft(store, "extract", "0" * 16)
    parts = [Part.model_validate_json(path.with_suffix(".json").read_text()) for path in paths]
    for path in paths:
        store.put(draft.path(path.name), path)
    known: dict[str, Any] = {"inputs": [], "config": {}, "seed": 0, "code": {}, "created_at": ""}
    digest, counts = content_digest(parts), Counts()
    extracted = Manifest(
        stage="extract", stage_version=1, key=draft.key, parts=parts, counts=counts, content_digest=digest, **known
    )
    with (
        ThreadPoolExecutor(1) as pool,
        count_requests() as found,
    ):
        sized = replace(FILTER, make=partial(make_filter, sizes=Sizes(unit, -(-rows // unit), unit)))
        made = make(plan(sized, FilterConfig(), 0, [extracted]), Context(store, folder, workers=1, pool=pool))
    assert made.counts.input == rows
    return sum(found)


def count_choice(folder: Path, rows: int, unit: int) -> int:
    """Return the requests of choose_rows on so many rows, in batches and partitions of `unit` rows."""
    store = folder / f"curate-{rows}"
    write_inspected(FolderStore(store), rows)
    with ThreadPoolExecutor(1) as pool, count_requests() as found:
        time_choice(Job(str(store), "choice", 1, rows=rows), pool, Units(unit, unit, 2 * unit, max_growth=1))
    return sum(found)


def count_all(folder: Path, sizes: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Yield stage, rows and requests for each of the sizes, the smallest first, with units of the same number of rows."""
    with patch.object(exchange, "DIRECT_PIECES", UNITS * UNITS):
        for stage, count in (("filter", count_filter), ("curate", count_choice)):
            for size in sizes:
                yield stage, size, count(folder, size, -(-sizes[0] // UNITS))
