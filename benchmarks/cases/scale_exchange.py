"""Exchange synthetic keys of filter on a Ray cluster, through the store and through Ray's object store.

Both move the same rows from the same writers to the same partitions, with the merges that `plan_merges` chooses. The first
is tasks/engine/exchange.py as the stages use it. The second is a push-based shuffle of Ray tasks (Exoshuffle, Luan et al.
2023): a writer returns an object for each group of partitions, and merges and reduces get these as arguments. Ray moves
them between nodes and spills them to local disk. A task starts when its arguments exist, and Ray runs the tasks again whose
objects are lost with a node.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from xxhash import xxh3_64

from benchmarks.inputs.rows import random_bits
from dataops.snapshot import Draft, Record
from dataops.store import open_store
from dataops.text.duplicates import KEY_BYTES, KEYS
from plugins.ray.engine import RayExecutor
from tasks.engine.context import Context
from tasks.engine.exchange import Exchange, Merges, Step, number_partitions, run
from tasks.engine.map_parts import map_parts, shared_workers

ROW_BYTES = KEY_BYTES + 4
RETRIES = 3
NODES = 2


@dataclass(frozen=True)
class ExchangeJob:
    """An exchange of the keys of synthetic rows."""

    rows: int
    writers: int
    partitions: int
    memory_bytes: int
    notes: str
    """Folder in which each try of a task leaves a byte."""

    @property
    def layout(self) -> str:
        """Return the numbers of writers and partitions."""
        return f"{self.writers}x{self.partitions}"

    @property
    def exchange(self) -> Exchange:
        """Return the exchange through the store."""
        return Exchange("keys", self.writers, self.partitions, self.rows * ROW_BYTES, self.memory_bytes)

    def note(self, task: str) -> None:
        """Leave a byte for a try of a task, if there is a folder."""
        if not self.notes:
            return
        with (Path(self.notes) / task).open("a") as file:
            file.write(".")


@dataclass(frozen=True)
class Exchanged:
    """Result of an exchange."""

    seconds: float
    """Wall time with running workers."""
    digests: list[str]
    """Digest of the rows of each partition, in their order."""


def make_keys(rows: int, writers: int, writer: int) -> pl.DataFrame:
    """Return the rows of a writer: KEYS and `row`."""
    numbers = np.arange(writer * rows // writers, (writer + 1) * rows // writers, dtype=np.uint64)
    columns: dict[str, NDArray[Any]] = {name: random_bits(numbers, salt) for salt, name in enumerate(KEYS)}
    columns["rank"] = columns["rank"].astype(np.uint16)
    return pl.DataFrame(columns | {"row": np.arange(len(numbers), dtype=np.uint32)})


def digest_rows(rows: pl.DataFrame) -> str:
    """Return a digest of the rows in their order."""
    digest = xxh3_64()
    for column in rows.select(*KEYS, "row", "part"):
        digest.update(np.ascontiguousarray(column.to_numpy()).data)
    return digest.hexdigest()


# Through the store ----------------------------------------------------------------------------------------------------


def load_code(draft: Draft, step: Step[ExchangeJob]) -> None:
    """Load what the other tasks need."""
    digest_rows(make_keys(1000, 1, 0).with_columns(part=pl.lit(0, pl.UInt32)))


def write(draft: Draft, step: Step[ExchangeJob]) -> None:
    """Write the rows of a writer."""
    job, rows = step.job, make_keys(step.job.rows, step.job.writers, step.number)
    job.note(f"write-{step.number}")
    job.exchange.write(draft, step.number, rows, number_partitions(rows["url"], job.partitions))


def reduce(draft: Draft, step: Step[ExchangeJob]) -> Record:
    """Digest the rows of a partition."""
    step.job.note(f"reduce-{step.number}")
    return Record(task=step.id, facts={"digest": digest_rows(step.job.exchange.read(draft, step.number))})


def exchange_through_store(uri: str, address: str, job: ExchangeJob) -> Exchanged:
    """Exchange as the stages do. One process calls this function."""
    context = Context(store=open_store(uri), home=Path(job.notes), executor=RayExecutor(address, shared_store=True))
    draft = Draft(context.store, "filter", "exchange")
    context.store.put(draft.path("there"), b"")
    with shared_workers(context) as shared:
        map_parts(run, [Step(load_code, number, job) for number in range(4 * shared.workers)], draft, shared)
        started = time.perf_counter()
        map_parts(run, [Step(write, number, job) for number in range(job.writers)], draft, shared)
        map_parts(run, job.exchange.merge_steps(), draft, shared)
        records = map_parts(run, [Step(reduce, number, job) for number in range(job.partitions)], draft, shared)
        return Exchanged(time.perf_counter() - started, [record.facts["digest"] for record in records])


# Through Ray's object store -------------------------------------------------------------------------------------------

Block = dict[str, NDArray[Any]]
"""Columns of rows by partition, and `sizes`, the number of rows of each partition."""


def exchange_through_ray(address: str, job: ExchangeJob) -> Exchanged:
    """Exchange by Ray tasks. One process calls this function, and owns the objects."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray  # pyright: ignore[reportMissingImports]

    ray.init(address=address, log_to_driver=False, namespace="pairmill")

    def remote(function: Any, results: int, *arguments: Any) -> list[Any]:
        refs = ray.remote(num_cpus=1, max_retries=RETRIES, num_returns=results)(function).remote(*arguments)
        return refs if results > 1 else [refs]

    warm = [remote(write_blocks, 1, ExchangeJob(1000, 1, 1, 1, ""), 0)[0] for _ in range(4 * NODES)]
    ray.get(warm)
    merges, groups = _merges(job), -(-job.partitions // _merges(job).partitions)
    started = time.perf_counter()
    blocks = [remote(write_blocks, groups, job, writer) for writer in range(job.writers)]
    inputs = list[list[Any]]()
    """Objects of each partition, in the order of their writers."""
    for group in range(groups):
        members = range(job.partitions)[group * merges.partitions : (group + 1) * merges.partitions]
        batches = [blocks[first : first + merges.writers] for first in range(0, job.writers, merges.writers)]
        columns = [[written[group] for written in batch] for batch in batches]
        if merges == (1, 1):
            inputs.append([refs[0] for refs in columns])
        else:
            merged = [remote(merge_blocks, len(members), *refs) for refs in columns]
            inputs += [list(refs) for refs in zip(*merged, strict=True)]
    del blocks
    reduces = [remote(reduce_blocks, 1, job, number, *refs)[0] for number, refs in enumerate(inputs)]
    inputs.clear()
    digests = ray.get(reduces)
    seconds = time.perf_counter() - started
    ray.shutdown()
    return Exchanged(seconds, digests)


def _merges(job: ExchangeJob) -> Merges:
    """Return the merges; (1, 1) if there are none."""
    return job.exchange.merges if job.exchange.merge_steps() else Merges(1, 1)


def write_blocks(job: ExchangeJob, writer: int) -> Any:
    """Return the rows of a writer, one block for each group of partitions."""
    job.note(f"write-{writer}")
    rows = make_keys(job.rows, job.writers, writer)
    numbers = number_partitions(rows["url"], job.partitions).astype(np.uint16)
    sizes, size = np.bincount(numbers, minlength=job.partitions), _merges(job).partitions
    rows = rows[np.argsort(numbers, kind="stable")].with_columns(part=pl.lit(writer, pl.UInt32)).rechunk()
    ends = np.cumsum([0, *sizes]).tolist()
    spans = [(first, min(first + size, job.partitions)) for first in range(0, job.partitions, size)]
    return _results([_block(rows[ends[first] : ends[last]], sizes[first:last]) for first, last in spans])


def merge_blocks(*blocks: Block) -> Any:
    """Return the rows of some writers, one block for each partition."""
    sizes = np.stack([block["sizes"] for block in blocks])
    ends = [np.cumsum([0, *one]).tolist() for one in sizes]
    merged = list[Block]()
    for number in range(sizes.shape[1]):
        spans = [slice(end[number], end[number + 1]) for end in ends]
        merged.append({name: _join(blocks, name, spans) for name in _names(blocks)})
        merged[-1]["sizes"] = sizes[:, number].sum(keepdims=True)
    return _results(merged)


def reduce_blocks(job: ExchangeJob, number: int, *blocks: Block) -> str:
    """Digest the rows of a partition."""
    job.note(f"reduce-{number}")
    spans = [slice(None)] * len(blocks)
    return digest_rows(pl.DataFrame({name: _join(blocks, name, spans) for name in _names(blocks)}))


def _results(blocks: list[Block]) -> Any:
    return blocks if len(blocks) > 1 else blocks[0]  # as Ray expects them


def _names(blocks: Sequence[Block]) -> list[str]:
    return [name for name in blocks[0] if name != "sizes"]


def _join(blocks: Sequence[Block], name: str, spans: Sequence[slice]) -> NDArray[Any]:
    return np.concatenate([block[name][span] for block, span in zip(blocks, spans, strict=True)])


def _block(rows: pl.DataFrame, sizes: NDArray[np.int64]) -> Block:
    return {column.name: column.to_numpy() for column in rows} | {"sizes": sizes}
