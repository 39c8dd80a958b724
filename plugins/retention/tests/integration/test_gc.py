"""gc that is killed at any moment and started again, and gc on a real S3 server with unfinished uploads."""

import subprocess
import sys

import boto3

from dataops.home import CHECKOUT
from dataops.snapshot import SnapshotName, find_manifest
from dataops.storage.s3 import S3Store
from dataops.store import FolderStore
from plugins.retention.command import Policy, Roots
from plugins.retention.deletion import delete_unneeded, plan_deletions
from tasks.engine.context import Context
from tests.stored_snapshots import names, put, put_run

KEPT = SnapshotName("extract", "0" * 16)
UNNEEDED = [
    SnapshotName(stage, f"{n:016x}") for n, stage in enumerate(("extract", "filter", "download", "curate", "pack"), 1)
]

GC_THAT_DIES = """
import os, signal, sys
from pathlib import Path
from dataops import store as stores
left = 0
def dies(method):
    def call(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments, **named)
    return call
Path.unlink = dies(Path.unlink)  # what FolderStore deletes with
os.unlink = dies(os.unlink)  # and rmtree
from plugins.retention.command import Policy, Roots
from plugins.retention.deletion import delete_unneeded, plan_deletions
from tasks.engine.context import Context
store = stores.FolderStore(Path(sys.argv[1]))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        left, roots = int(line), Roots(store, Policy(1))
        delete_unneeded(plan_deletions(store, roots()), Context(store=store, home=store.root, run_id="gc"), roots)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_gc_killed_at_any_deletion_leaves_no_partial_snapshot(tmp_path):
    store = FolderStore(tmp_path / "store")
    put(store, KEPT, [])
    for number, name in enumerate(UNNEEDED):
        put(store, name, [KEPT], work="old" if number % 2 else None)
    put_run(store, "r", [KEPT])
    kept = find_manifest(store, *KEPT)
    command = [sys.executable, "-c", GC_THAT_DIES, str(store.root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, text=True, bufsize=1) as starter:
        for deletions in (0, 1, 2, 4, 7, 1000):
            starter.stdin.write(f"{deletions}\n")
            assert starter.stdout.readline() == ("0\n" if deletions == 1000 else "-9\n")
            for name in names(store):
                assert find_manifest(store, *name) is not None or name in UNNEEDED  # raises where a part is missing
    assert names(store) == {KEPT}
    assert find_manifest(store, *KEPT) == kept
    store.sweep("")  # partly deleted objects, which the next gc deletes after a day
    files = {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}
    assert files == {f"{KEPT}/part-00000", f"{KEPT}/manifest.json", "runs/r.json"}


def test_gc_on_s3_also_deletes_uploads_that_were_never_completed(s3_environment, tmp_path):
    store = S3Store("mill", f"gc/{tmp_path.name}")
    put(store, KEPT, [], aged=False)
    for name in UNNEEDED:
        put(store, name, [KEPT], aged=False)
    put_run(store, "r", [KEPT])
    client = boto3.client("s3")
    other = f"gc-other/{tmp_path.name}.tar"
    for key in (f"{store.prefix}/pack/x/00000.tar", other):
        client.create_multipart_upload(Bucket="mill", Key=key)

    roots, context = Roots(store, Policy(1)), Context(store=store, home=tmp_path)
    swept = delete_unneeded(plan_deletions(store, roots()), context, roots)
    assert (len(swept.deleted), swept.unfinished) == (len(UNNEEDED), 0)  # the upload is younger than a day
    assert names(store) == {KEPT}
    assert find_manifest(store, *KEPT) is not None

    again = delete_unneeded(plan_deletions(store, roots()), context, roots, unfinished_seconds=0)
    assert again.unfinished == 1
    remaining = [upload["Key"] for upload in client.list_multipart_uploads(Bucket="mill").get("Uploads", [])]
    client.close()
    assert other in remaining
    assert not any(key.startswith(store.prefix) for key in remaining)
