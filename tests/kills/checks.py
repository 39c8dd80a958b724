"""Check a store after any number of kills. Each check yields the problems that it finds."""

import json
from collections import Counter

import httpx
import pyarrow.parquet as pq
from boto3.session import Session

from dataops.shards.tar import read_samples
from dataops.snapshot import MANIFEST, find_manifest
from dataops.stages import PAIR_STAGES
from dataops.storage.s3 import S3Store
from dataops.store import FolderStore
from tasks.lineage.inventory import Inventory
from tests.servers.prefect_api import PrefectApi


def load_manifests(record, store):
    """Return the complete snapshots of a run, with the SHA-256 of each part verified. Raises: CorruptPart."""
    found = (find_manifest(store, stage.stage, stage.key, verify=True) for stage in record.stages)
    return {manifest.stage: manifest for manifest in found if manifest is not None}


def content_digests(found):
    """Return the content digest of each stage. That of download is constant because the demo's site is."""
    return {stage: manifest.content_digest for stage, manifest in found.items()}


def check_rows(found, store):
    """Check kept + dropped == input by uid at each stage, read from the parts, and the keys of the shards."""
    before = None
    for name in PAIR_STAGES:
        manifest = found[name]
        kept, dropped = (_uids(store, manifest, prefix) for prefix in ("part-", "dropped-"))
        if len(kept) != manifest.counts.kept or len(dropped) != sum(manifest.counts.dropped.values()):
            yield f"{name}: {len(kept)} rows kept and {len(dropped)} dropped; the manifest has {manifest.counts}"
        if before is not None and Counter(kept + dropped) != Counter(before):
            yield f"{name}: the uids kept and dropped are not those of the input"
        before = kept
    for stage in ("download", "pack"):
        rows, samples = _keys(store, found[stage])
        repeated = [key for key, times in Counter(samples).items() if times > 1]
        if repeated or sorted(rows) != sorted(samples):
            yield f"{stage}: {len(samples)} samples in the shards for {len(rows)} rows, {len(repeated)} of them repeated"


def _uids(store, manifest, prefix):
    names = [manifest.path(part.name) for part in manifest.named(prefix, ".parquet")]
    return [uid for name in names for uid in pq.read_table(store.local(name), columns=["uid"])["uid"].to_pylist()]


def _keys(store, manifest):
    rows = []
    samples = []
    for part in manifest.named("part-", ".parquet"):
        rows += pq.read_table(store.local(manifest.path(part.name)), columns=["key"])["key"].to_pylist()
    for part in manifest.named("", ".tar"):
        with store.open(manifest.path(part.name)) as file:
            samples += [key for key, _ in read_samples(file, part.name)]
    return rows, samples


def list_job_folders(home):
    """Return the names of the job folders."""
    return frozenset(path.name for path in (home / "jobs").iterdir()) if (home / "jobs").is_dir() else frozenset()


def find_leftovers(store, home, temporary, before=frozenset()):
    """Yield what a complete run must not leave: objects that no manifest names, unfinished uploads, and local folders.

    Args:
        before: job folders that existed before.
    """
    left = _find_unnamed(store)
    if isinstance(store, FolderStore):
        left |= {
            str(path.relative_to(store.root))
            for path in store.root.rglob("*")
            if path.name.startswith(".tmp-") or path.name == "_work"
        }
    elif isinstance(store, S3Store):
        left |= {f"upload of {key}" for key in list_uploads(store)}
    yield from (f"store: {name}" for name in sorted(left))
    for folder, name in ((home / "jobs", "home: jobs"), (temporary, "temporary")):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            # One folder per user is torch's cache of compiled kernels.
            if path.name.startswith("torchinductor_") or path.name in before:
                continue
            yield f"{name}/{path.name}"


def _find_unnamed(store):
    """Return the objects that are no run record, no index of extract and in no manifest; of scratch objects the folder."""
    inventory = Inventory(store)
    known = {entry.name for entry in inventory.memories}
    for name in inventory.snapshots:
        if manifest := inventory.manifest(name):
            known |= {f"{name}/{MANIFEST}", *(manifest.path(part.name) for part in manifest.parts)}
    unnamed = {name for name in store.names("") if name not in known and not name.startswith("runs/")}
    return {name.partition("/_work/")[0] + "/_work" if "/_work/" in name else name for name in unnamed}


def list_uploads(store):
    """Return the keys of the multipart uploads that are neither complete nor aborted."""
    client = Session().client("s3")
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=store.bucket)
        keys = [upload["Key"] for page in pages for upload in page.get("Uploads", [])]
        return [key for key in keys if key.startswith(f"{store.prefix}/")]
    finally:
        client.close()


def check_mlflow(url, key):
    """Check that MLflow has one run and one model version per register key, and each step of its curve once."""
    tagged = f"tags.`pairmill.register_key` = '{key}'"
    versions = _get(f"{url}/api/2.0/mlflow/model-versions/search", {"filter": tagged})
    found = versions.get("model_versions", [])
    if len(found) != 1:
        yield f"MLflow: {len(found)} versions of one register key"
    runs = httpx.post(
        f"{url}/api/2.0/mlflow/runs/search",
        json={"experiment_ids": _experiments(url), "filter": tagged},
        timeout=30,
    ).json()
    for run in runs.get("runs", []):
        if run["info"]["status"] != "FINISHED":
            yield f"MLflow: run {run['info']['run_id']} is {run['info']['status']}"
        steps = _get(f"{url}/api/2.0/mlflow/metrics/get-history", {**_run(run), "metric_key": "train/loss"})
        counts = Counter(point["step"] for point in steps.get("metrics", []))
        if any(times > 1 for times in counts.values()):
            yield f"MLflow: run {run['info']['run_id']} has steps of train/loss twice: {counts}"
    if len(runs.get("runs", [])) != 1:
        yield f"MLflow: {len(runs.get('runs', []))} runs of one register key"


def _run(run):
    return {"run_id": run["info"]["run_id"]}


def _experiments(url):
    found = httpx.post(f"{url}/api/2.0/mlflow/experiments/search", json={"max_results": 100}, timeout=30).json()
    return [experiment["experiment_id"] for experiment in found["experiments"]]


def _get(url, params):
    return json.loads(httpx.get(url, params=params, timeout=30).text)


def check_flow_runs(api, record):
    """Check that all flow runs and task runs of a completed run have ended in Prefect, also those that were killed."""
    ids = [attempt.flow_run_id for attempt in record.attempts if attempt.flow_run_id]
    query = {"flow_runs": {"id": {"any_": ids}}, "limit": 200}
    for kind in ("flow_runs", "task_runs"):
        for run in PrefectApi(api).post(f"{kind}/filter", query):
            if run["state_type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                yield f"Prefect: {run['name']} ({run['id']}) is {run['state_name']}"
