"""A run as its listeners see it, without a server of Prefect."""

from types import SimpleNamespace

from dataops.store import FolderStore
from flows.listeners.base import LiveRun
from flows.records import RunRecord
from tasks.engine.context import Context


def build_live_run(folder, config=None, **fields):
    """Return a run with its store in a folder.

    Args:
        config: its config; only what is read of it must be there.
        fields: of its record.
    """
    record = RunRecord.model_validate({"run_id": "demo-1", "name": "demo", "created_at": "", "config": {}} | fields)
    context = Context(FolderStore(folder), folder, run_id=record.run_id, flow_run_url="http://prefect/run")
    found = config or SimpleNamespace()
    return LiveRun(record, found, context, None)


def build_plan(stage, *inputs, key="a" * 16):
    """Return what listeners read of the plan of a stage."""
    return SimpleNamespace(stage=SimpleNamespace(name=stage, version=1), inputs=inputs, key=key, upstream=())
