"""Exchanges of rows: each partition gets its rows in the order of their writers, with and without merges."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import StorageError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.engine import exchange as exchanges
from tasks.engine.context import Context
from tasks.engine.exchange import (
    Exchange,
    Merges,
    Step,
    plan_merges,
    run_steps,
)
from tests.inline_executor import InlineExecutor

MEMORY = 64 << 20


def open_draft(folder):
    return Draft(FolderStore(folder), "filter", "0" * 16)


def make_rows(numbers, kind):
    """Return a row for each number, of columns that are stored as numbers or as Arrow."""
    rows = pl.DataFrame({"key": numbers, "row": range(len(numbers))}, schema={"key": pl.UInt64, "row": pl.UInt32})
    if kind == "texts":
        rows = rows.with_columns(caption=pl.col("key").cast(pl.String), image=pl.lit(b"\xff\0"))
    return rows.with_columns(pl.when(pl.col("row") != 1).then("key")) if kind == "nulls" else rows


SIZES = st.integers(1, 7)


@given(st.data(), SIZES, SIZES, st.sampled_from(["numbers", "texts", "nulls"]), st.booleans())
def test_each_partition_gets_its_rows_in_the_order_of_their_writers(
    tmp_path_factory,
    data,
    writers,
    partitions,
    kind,
    skewed,
):
    draft = open_draft(tmp_path_factory.mktemp("store"))
    chosen = st.just(partitions - 1) if skewed else st.integers(0, partitions - 1)
    targets = data.draw(st.lists(st.lists(chosen, max_size=6), min_size=writers, max_size=writers))
    merges = data.draw(
        st.sampled_from([Merges(1, partitions)])
        | st.builds(Merges, st.integers(1, writers), st.integers(1, partitions))
    )
    tables = [make_rows([1000 * writer + i for i in range(len(rows))], kind) for writer, rows in enumerate(targets)]
    exchange = Exchange("rows", writers, partitions, 0, MEMORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchanges, "plan_merges", lambda *_: merges)
        for writer, (rows, numbers) in enumerate(zip(tables, targets, strict=True)):
            exchange.write(draft, writer, rows, np.array(numbers, np.int64))
        steps = exchange.merge_steps()
        assert bool(steps) == (merges != (1, partitions))
        run_steps(steps, 0, draft, Context(draft.store, Path()))
        for partition in range(partitions):
            expected = pl.concat(
                rows.filter(pl.Series(numbers, dtype=pl.Int64) == partition).with_columns(
                    part=pl.lit(writer, dtype=pl.UInt32)
                )
                for writer, (rows, numbers) in enumerate(zip(tables, targets, strict=True))
            )
            assert exchange.read(draft, partition).equals(expected)
            assert pl.concat(exchange.read_tables(draft, partition)).equals(expected)
            early = exchange.read_early(draft, partition, 1)
            assert early.equals(expected.filter(part=0))
        for writer, (rows, numbers) in enumerate(zip(tables, targets, strict=True)):
            assert exchange.read_written(draft, writer).equals(rows[np.argsort(numbers, kind="stable").tolist()])


@pytest.mark.parametrize("row_bytes", [0, 1, 38])
def test_merges_fit_in_memory_and_need_few_requests(row_bytes):
    """Rows grow by 100 times, and writers and partitions with them; requests grow by no more."""
    memory, requests = 1 << 30, []
    for rows in (128_000_000, 1_280_000_000, 12_800_000_000):
        writers, partitions = -(-rows // 6_000_000), -(-rows // 7_000_000)
        size = rows * row_bytes
        merges = plan_merges(writers, partitions, size, memory)
        batches, groups = -(-writers // merges.writers), -(-partitions // merges.partitions)
        if batches < writers:
            assert size / (batches * groups) <= 1.1 * memory / 4
        requests.append(writers * groups + batches * partitions)
        assert requests[-1] < 2 * rows * 38 / (4 << 20) + 4096, "pieces of megabytes"


def test_a_merge_is_repeated_only_if_it_is_not_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(exchanges, "plan_merges", lambda *_: Merges(2, 2))
    draft, exchange, calls = open_draft(tmp_path), Exchange("rows", 3, 3, 0, MEMORY), Counter()
    for writer in range(3):
        exchange.write(draft, writer, make_rows([writer] * 9, "numbers"), np.arange(9) % 3)

    def count(step):
        calls[step.id] += 1
        if calls.total() == 3:
            raise KeyboardInterrupt

    context = Context(draft.store, tmp_path, pool=InlineExecutor(count), inline_rows=0)
    with pytest.raises(KeyboardInterrupt):
        run_steps(exchange.merge_steps(), 1, draft, context)
    run_steps(exchange.merge_steps(), 1, draft, context)
    assert sorted(calls.values()) == [1, 1, 1, 2]
    assert exchange.read(draft, 2)["key"].to_list() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def write_tenfold(draft, step):
    """Write ten rows, and count the call in the log that `inputs` names."""
    with Path(step.inputs[0]).open("a") as log:
        log.write(f"{step.number}\n")
    step.job.write(draft, step.number, make_rows([step.number] * 10, "numbers"), np.arange(10) % 2)


@pytest.mark.parametrize("rows", [0, (1 << 15) + 1], ids=["in this process", "in a worker"])
@pytest.mark.parametrize("loss", ["gone", "emptied", "cut", "changed"])
def test_a_task_is_repeated_after_a_power_loss_broke_its_table(tmp_path, loss, rows):
    draft, exchange, log = open_draft(tmp_path), Exchange("rows", 3, 2, 0, MEMORY), tmp_path / "log"
    context = Context(draft.store, tmp_path, pool=InlineExecutor(lambda _: None))
    tasks = [Step(write_tenfold, number, exchange, (str(log),)) for number in range(3)]
    run_steps(tasks, rows, draft, context)
    expected = [exchange.read(draft, partition) for partition in range(2)]

    (table,) = (path for path in tmp_path.rglob("*.table") if path.name.endswith("-00001.table"))
    data = table.read_bytes()
    table.unlink()
    if loss != "gone":
        table.write_bytes({"emptied": b"", "cut": data[:-1], "changed": data[:-1] + b"x"}[loss])
    log.unlink()
    if loss == "changed":  # which only the checksum shows
        run_steps(tasks, rows, draft, context)
        assert not log.exists()
        with pytest.raises(StorageError, match="the next attempt writes it again") as caught:
            exchange.read(draft, 1)
        assert (caught.value.exit_code, caught.value.retryable) == (75, True)
    run_steps(tasks, rows, draft, context)
    assert log.read_text() == "1\n", "no other task"
    assert all(exchange.read(draft, partition).equals(rows) for partition, rows in enumerate(expected))
