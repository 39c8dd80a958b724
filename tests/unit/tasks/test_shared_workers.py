"""Several maps of a stage in the same worker processes."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataops.errors import ContractError
from dataops.snapshot import Draft, Record
from dataops.store import FolderStore
from tasks.parts import map_parts, shared_workers
from tasks.stage import Context


@dataclass(frozen=True)
class Task:
    id: str
    fails: bool = False


def who(draft: Draft, task: Task) -> Record:
    if task.fails:
        raise ContractError(task.id)
    return Record(task=task.id, facts={"pid": os.getpid()})


def pids(names: list[str], draft: Draft, context: Context) -> set[int]:
    return {record.facts["pid"] for record in map_parts(who, [Task(name) for name in names], draft, context)}


def test_maps_share_their_workers_and_one_that_fails_ends_none(tmp_path: Path):
    draft = Draft(FolderStore(tmp_path), "filter", "k")
    context = Context(store=draft.store, home=tmp_path, workers=1)
    with shared_workers(context) as shared:
        first = pids(["a", "b"], draft, shared)
        with pytest.raises(ContractError, match="worse"):
            map_parts(who, [Task("worse", fails=True), *(Task(f"x{i}") for i in range(9))], draft, shared)
        assert pids(["c"], draft, shared) == first
    assert len(first) == 1
    assert os.getpid() not in first
    assert pids(["a", "b"], draft, context) == first, "finished before"
    assert pids(["d"], draft, context) != first
