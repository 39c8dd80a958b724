"""Small snapshots and run records in a store, of any age."""

import os
import time
from datetime import UTC, datetime, timedelta

from dataops.snapshot import Input, Part, SnapshotName
from dataops.stages import STAGES
from flows.records import Attempt, RunRecord, StageRun
from tasks.lineage.inventory import DAY
from tests.manifests import build_manifest

NOW = time.time()


def put(
    store,
    name,
    inputs,
    *,
    complete=True,
    work=None,
    aged=True,
):
    """Write a snapshot of one part that is two days old; `work`: "new" or "old" scratch objects beside it."""
    store.put(f"{name}/part-00000", str(name).encode())
    if work:
        store.put(f"{name}/_work/part-00000.json", b"{}")
    if complete:
        manifest = build_manifest(
            name.stage,
            [Part(name="part-00000", rows=0, bytes=len(str(name)), sha256="")],
            key=name.key,
            inputs=[Input(stage=i.stage, key=i.key, digest="d") for i in inputs],
            content_digest="d",
        )
        store.create(f"{name}/manifest.json", manifest.encode())
    if work != "new" and aged:
        age(store.root / str(name))


def age(folder, days=2):
    for path in folder.rglob("*"):
        os.utime(path, (NOW - days * DAY, NOW - days * DAY))


def put_run(store, run_id, used, *, days=0, name="n", state="completed"):
    stamp = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    RunRecord(
        run_id=run_id,
        name=name,
        created_at=stamp,
        config={},
        state=state,
        attempts=[Attempt(started_at=stamp, host="elsewhere", pid=1)],
        stages=[StageRun(stage=n.stage, key=n.key, state="Completed") for n in used],
    ).save(store)


def names(store):
    found = (entry.name.split("/") for entry in store.entries("") if entry.name.split("/")[0] in STAGES)
    return {SnapshotName(path[0], path[1]) for path in found if path[1] != "by-source"}
