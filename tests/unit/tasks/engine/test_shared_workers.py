"""Several maps of a stage in the same worker processes."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataops.errors import ContractError
from dataops.snapshot import Draft, Record
from dataops.store import FolderStore
from tasks.engine.context import Context, LocalExecutor
from tasks.engine.map_parts import map_parts, shared_workers
from tests.concurrency import wait_for


@dataclass(frozen=True)
class Task:
    id: str
    fails: bool = False


def who(draft, task):
    if task.fails:
        raise ContractError(task.id)
    return Record(task=task.id, facts={"pid": os.getpid()})


def pids(names, draft, context):
    return {record.facts["pid"] for record in map_parts(who, [Task(name) for name in names], draft, context)}


def test_shared_workers_serve_several_maps_and_survive_a_failed_one_and_a_kill(tmp_path):
    draft = Draft(FolderStore(tmp_path), "filter", "k")
    context = Context(store=draft.store, home=tmp_path, workers=1)
    with shared_workers(context) as shared:
        first = pids(["a", "b"], draft, shared)
        with pytest.raises(ContractError, match="worse"):
            map_parts(who, [Task("worse", fails=True), *(Task(f"x{i}") for i in range(9))], draft, shared)
        assert pids(["c"], draft, shared) == first
        (idle,) = first - {os.getpid()}
        os.kill(idle, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{idle}").exists())
        assert idle not in pids(["e"], draft, shared), "a killed worker is replaced"


def test_shared_workers_are_killed_when_they_do_not_end(tmp_path):
    draft = Draft(FolderStore(tmp_path), "filter", "k")
    impatient = LocalExecutor(end_seconds=0.2)
    with shared_workers(Context(store=draft.store, home=tmp_path, workers=1, executor=impatient)) as shared:
        (stuck,) = pids(["a"], draft, shared)
        os.kill(stuck, signal.SIGSTOP)
    wait_for(lambda: not Path(f"/proc/{stuck}").exists())
