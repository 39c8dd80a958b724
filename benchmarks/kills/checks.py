"""What must hold of a store after any number of kills, whatever happened on the way. Each check returns what is wrong."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq

from dataops.shards.tar import read_samples
from dataops.snapshot import Manifest, find_manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from flows.records import RunRecord


def manifests(record: RunRecord, store: Store) -> dict[str, Manifest]:
    """The complete snapshots of a run, every part's sha256 compared. Raises: CorruptPart."""
    found = (find_manifest(store, stage.stage, stage.key, verify=True) for stage in record.stages)
    return {manifest.stage: manifest for manifest in found if manifest is not None}


def digests(found: dict[str, Manifest]) -> dict[str, str]:
    """The content digest of each stage: of the dataset (pack), the weights (train), the evaluation, and the rest.

    Download's covers the bytes that were fetched, and the demo's site always answers the same.
    """
    return {stage: manifest.content_digest for stage, manifest in found.items()}


def rows_lost_or_doubled(found: dict[str, Manifest], store: Store) -> Iterator[str]:
    """Kept + dropped == input by uid, at each stage, read from the parts themselves; and the keys of the packed shards."""
    before: list[str] | None = None
    for name in PAIR_STAGES:
        manifest = found[name]
        kept, dropped = (_uids(store, manifest, prefix) for prefix in ("part-", "dropped-"))
        if len(kept) != manifest.counts.kept or len(dropped) != sum(manifest.counts.dropped.values()):
            yield f"{name}: {len(kept)} rows kept and {len(dropped)} dropped, where its manifest says {manifest.counts}"
        if before is not None and Counter(kept + dropped) != Counter(before):
            yield f"{name}: the uids kept and dropped are not those that came in"
        before = kept
    for stage in ("download", "pack"):
        rows, samples = _keys(store, found[stage])
        doubled = [key for key, times in Counter(samples).items() if times > 1]
        if doubled or sorted(rows) != sorted(samples):
            yield f"{stage}: {len(samples)} samples in the shards for {len(rows)} rows, {len(doubled)} of them doubled"


def _uids(store: Store, manifest: Manifest, prefix: str) -> list[str]:
    names = [manifest.path(part.name) for part in manifest.named(prefix, ".parquet")]
    return [uid for name in names for uid in pq.read_table(store.local(name), columns=["uid"])["uid"].to_pylist()]


def _keys(store: Store, manifest: Manifest) -> tuple[list[str], list[str]]:
    rows: list[str] = []
    samples: list[str] = []
    for part in manifest.named("part-", ".parquet"):
        rows += pq.read_table(store.local(manifest.path(part.name)), columns=["key"])["key"].to_pylist()
    for part in manifest.named("", ".tar"):
        with store.open(manifest.path(part.name)) as file:
            samples += [key for key, _ in read_samples(file, part.name)]
    return rows, samples


def job_folders(home: Path) -> frozenset[str]:
    """The names of the job folders."""
    return frozenset(path.name for path in (home / "jobs").iterdir()) if (home / "jobs").is_dir() else frozenset()


def rubbish(store: Path, home: Path, temporary: Path, before: frozenset[str] = frozenset()) -> Iterator[str]:
    """What a finished run should not leave: scratch objects, half-written files, job folders, temporary folders.

    Args:
        before: job folders that were there before.
    """
    for path in sorted(store.rglob("*")):
        if path.name.startswith(".tmp-") or path.name == "_work":
            yield f"store: {path.relative_to(store)}"
    for folder, name in ((home / "jobs", "home: jobs"), (temporary, "temporary")):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            # One folder for each user is torch's cache of compiled kernels.
            if path.name.startswith("torchinductor_") or path.name in before:
                continue
            yield f"{name}/{path.name}"


def doubled_in_mlflow(url: str, key: str) -> Iterator[str]:
    """One run and one version per register key, however often it was registered, and no step of its curve twice."""
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
        seen = Counter(point["step"] for point in steps.get("metrics", []))
        if any(times > 1 for times in seen.values()):
            yield f"MLflow: run {run['info']['run_id']} has steps of train/loss twice: {seen}"
    if len(runs.get("runs", [])) != 1:
        yield f"MLflow: {len(runs.get('runs', []))} runs of one register key"


def _run(run: dict) -> dict[str, str]:
    return {"run_id": run["info"]["run_id"]}


def _experiments(url: str) -> list[str]:
    found = httpx.post(f"{url}/api/2.0/mlflow/experiments/search", json={"max_results": 100}, timeout=30).json()
    return [experiment["experiment_id"] for experiment in found["experiments"]]


def _get(url: str, params: dict[str, str]) -> dict:
    return json.loads(httpx.get(url, params=params, timeout=30).text)


def unfinished_flow_runs(api: str, record: RunRecord) -> Iterator[str]:
    """Every flow run of a run that ended is in a final state in Prefect, those of killed tries too."""
    ids = [attempt.flow_run_id for attempt in record.attempts if attempt.flow_run_id]
    query = {"flow_runs": {"id": {"any_": ids}}, "limit": 200}
    for flow_run in httpx.post(f"{api}/flow_runs/filter", json=query, timeout=30).json():
        if flow_run["state_type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            yield f"Prefect: {flow_run['name']} ({flow_run['id']}) is {flow_run['state_name']}"
