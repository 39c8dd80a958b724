"""gc killed at any moment and started again, and gc on a real S3 server with what killed uploads leave there."""

import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from dataops.snapshot import find
from dataops.store import FolderStore, S3Store, Store
from flows.gc import Policy, Roots
from tasks.retention import DAY, Name, collect, sweep
from tasks.stage import Context
from tests.integration.conftest import KEY_ID, SECRET
from tests.unit.flows.test_gc import names, put, put_run

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]
KEPT = Name("extract", "0" * 16)
GONE = [Name(stage, f"{n:016x}") for n, stage in enumerate(("extract", "filter", "download", "curate", "pack"), 1)]

GC_THAT_DIES = """
import os, signal, sys
from pathlib import Path
from dataops import store as stores
left = int(sys.argv[2])
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
from flows.gc import Policy, Roots
from tasks.retention import collect, sweep
from tasks.stage import Context
store = stores.FolderStore(Path(sys.argv[1]))
roots = Roots(store, Policy(1))
sweep(collect(store, roots()), Context(store=store, home=store.root, run_id="gc"), roots)
"""


def test_killed_at_any_deletion_it_leaves_no_half_snapshot_and_goes_on(tmp_path):
    store = FolderStore(tmp_path / "store")
    put(store, KEPT, [])
    for number, name in enumerate(GONE):
        put(store, name, [KEPT], work="old" if number % 2 else None)
    put_run(store, "r", [KEPT])
    kept = find(store, *KEPT)
    killed = 0
    for lives in (0, 1, 2, 4, 7, 1000):
        command = [sys.executable, "-c", GC_THAT_DIES, str(store.root), str(lives)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (0, -9), done.stderr
        killed += done.returncode == -9
        for name in names(store):
            assert find(store, *name) is not None or name in GONE  # find raises where a part is missing
    assert killed >= 4
    assert names(store) == {KEPT}
    assert find(store, *KEPT) == kept
    files = {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}
    assert files == {f"{KEPT}/part-00000", f"{KEPT}/manifest.json", "runs/r.json"}


@pytest.fixture
def store(s3_endpoint, monkeypatch, tmp_path) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    for _ in range(50):  # the server answers a little before its volumes are ready
        try:
            client.create_bucket(Bucket="mill-gc")
            break
        except client.exceptions.BucketAlreadyOwnedByYou:
            break
        except client.exceptions.ClientError:
            time.sleep(0.2)
    client.close()
    return S3Store("mill-gc", f"gc/{tmp_path.name}", tmp_path / "cache")


def test_on_s3_the_same_goes_and_uploads_that_were_never_completed(store, tmp_path):
    put(store, KEPT, [], aged=False)
    for name in GONE:
        put(store, name, [KEPT], aged=False)
    put_run(store, "r", [KEPT])
    cached = store.local(f"{GONE[0]}/part-00000")
    client = boto3.client("s3")
    for key in (f"{store.prefix}/pack/x/00000.tar", "another-prefix/00000.tar"):
        client.create_multipart_upload(Bucket="mill-gc", Key=key)
    roots, context = Roots(store, Policy(1)), Context(store=store, home=tmp_path)
    assert not collect(store, roots()).unfinished  # younger than a day
    collection = collect(store, roots(), now=time.time() + 2 * DAY)
    assert [entry.name.partition("?")[0] for entry in collection.unfinished] == ["pack/x/00000.tar"]
    sweep(collection, context, roots)
    assert names(store) == {KEPT}
    left = client.list_multipart_uploads(Bucket="mill-gc").get("Uploads", [])
    client.close()
    assert [upload["Key"] for upload in left] == ["another-prefix/00000.tar"]
    assert not cached.exists()
    assert find(store, *KEPT) is not None
