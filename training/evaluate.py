"""The evaluation job: a model against a suite, as `python -m training.evaluate JOB.json`.

Several ranks: `python -m training.launch N -m training.evaluate JOB.json`. They divide batches, rankings and fits, and
end with the same bytes as one rank; rank 0 writes.

JOB.json holds the fields of `EvaluateJob`. Files below `output`, each written atomically:

    predictions-<task>.parquet   a row an image (columns: PREDICTIONS of training/evaluation/zero_shot.py, ...)
    results/<task>.json          the task's metrics and the digest of its inputs; a restarted job reuses them
    metrics.json                 last: {"<task>": {"kind", "n", ..., "metrics":
                                 {"<metric>": {"value", "low", "high", "chance"}}}}

The same weights, data, batch size and kind of machine give the same bytes: no file holds a clock or an absolute path.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import PositiveInt
from torch import Tensor

from dataops import plugins
from dataops.digest import canonical_json, file_sha256, text_sha256
from dataops.formatting import format_interval, format_percent
from dataops.parquet import encode_table
from dataops.store import FolderStore
from training import distributed
from training.evaluation.encode import EvaluatedModel, get_device_and_dtype
from training.evaluation.features import EncodedSet, Examples, FeatureCache, encode_set
from training.evaluation.suite import Precision, Suite
from training.evaluation.task import Task
from training.job import FAILURE, RanksJob, resolve_device, run_command, run_process
from training.model.clip import autocast
from training.model.load import digest_model, load_any
from training.model.towers import BackboneTower

METRICS = "metrics.json"
RESULT_VERSION = 5
"""Version of the results, raised when the same checkpoint and data give another result: older results are not reused."""

logger = logging.getLogger(__name__)


class EvaluateJob(RanksJob):
    """The fields of a job file."""

    checkpoint: Path
    """Folder or file of the model."""
    suite: Suite
    """Suite of tasks, their roots absolute."""
    batch_size: PositiveInt = 256
    """Images per batch."""
    precision: Precision = "fp32"
    """Precision of the towers; features and scores are always float32."""
    features: Path | None = None
    """Folder that keeps features of images."""
    device: str = "cpu"
    """A torch device; auto: cuda if torch sees it."""
    threads: PositiveInt | None = None
    """Threads that decode and, on the CPU, encode; None: one a core. The results are the same on any number."""


def evaluate(
    loaded: EvaluatedModel,
    suite: Suite,
    output: Path,
    *,
    checkpoint_digest: str,
    batch_size: int = 256,
    precision: Precision = "fp32",
    threads: int | None = None,
    features: Path | None = None,
    digest: Callable[[Path], str] = file_sha256,
) -> dict[str, dict[str, Any]]:
    """Run every task that has no finished result in `output` yet, and write metrics.json; all ranks together.

    Args:
        checkpoint_digest: digest of the model's files; results from another one are not reused.
        precision: in which the model computes; it only names the results.
        features: folder that keeps the features of images for later tasks and calls; None: they are not kept.
        digest: returns the sha256 of a file; rank 0 calls it for each file of the suite.

    Returns: the content of metrics.json, tasks in the order of the suite.
    Raises: ContractError on damaged data or unreadable sets; TrainingDiverged if features are not finite.
    """
    store = FolderStore(output)
    cache = None if features is None else FeatureCache(FolderStore(features), checkpoint_digest)
    tasks = _Tasks(loaded, batch_size, precision, threads, cache)
    metrics = {task.name: _evaluate_task(tasks, task, store, checkpoint_digest, digest) for task in suite.tasks}
    for row in compute_gaps({task.name: task.base for task in suite.tasks if task.base}, metrics):
        metrics[row["task"]]["robustness"] = row
    if distributed.rank() == 0:
        store.put(METRICS, _to_json(metrics))
    return metrics


def compute_gaps(bases: Mapping[str, str], metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each shifted task: task, base, value, base_value, gap (base - shift), the cost of its natural shift.

    Source: Radford et al. 2021, section 3.3 and figure 13.

    Args:
        bases: shifted task to its base; pairs of which one was not measured are left out.
        metrics: the content of metrics.json.
    """
    rows = []
    for task, base in bases.items():
        if task in metrics and base in metrics:
            value, base_value = (metrics[name]["metrics"]["top1"]["value"] for name in (task, base))
            rows.append({"task": task, "base": base, "value": value, "base_value": base_value})
            rows[-1]["gap"] = base_value - value
    return rows


def _evaluate_task(
    tasks: "_Tasks", task: Task, store: FolderStore, checkpoint_digest: str, digest: Callable[[Path], str]
) -> dict[str, Any]:
    """Return the task's entry of metrics.json: the finished result, or a new one, which it writes."""
    identity = distributed.run_on_first(lambda: task.identity(digest))
    device, _ = get_device_and_dtype(tasks.loaded.model)
    inputs = {
        "checkpoint": checkpoint_digest,
        "task": identity,
        "batch_size": tasks.batch_size,
        "computed": [device.type, tasks.precision],
        "version": RESULT_VERSION,
    }
    fingerprint = text_sha256(canonical_json(inputs))
    result = distributed.run_on_first(lambda: _read_finished(store, task, fingerprint))
    if result is not None:
        logger.info("%s (reused)", _summarize(task, result))
        return result
    started = time.perf_counter()
    result, predictions = tasks.run(task, identity["files"])
    if distributed.rank() == 0:
        _write_result(store, task, fingerprint, result, predictions)
    logger.info("%s in %.1f s", _summarize(task, result), time.perf_counter() - started)
    return result


@dataclass
class _Tasks:
    """The tasks of one model, which share class weights and the features of each split."""

    loaded: EvaluatedModel
    batch_size: int
    precision: Precision
    threads: int | None
    cache: FeatureCache | None
    weights: dict[tuple[str, ...], Tensor] = field(default_factory=dict)

    def run(self, task: Task, files: Sequence[Sequence[str]]) -> tuple[dict[str, Any], pa.Table]:
        """Return the task's entry of metrics.json and its predictions."""
        encoded = self._encode(task, task.split, files)
        result, predictions = task.measure.run(
            loaded=self.loaded, task=task, encoded=encoded, threads=self.threads, weights=self.weights
        )
        if task.probes:
            result |= self._run_probes(task, encoded, files, result["metrics"])
        if task.samples is not None and task.samples != result["n"]:
            result["expected_n"] = task.samples
            logger.warning("%s has %d images; the suite expects %d", task.name, result["n"], task.samples)
        return {**result, "main_metric": task.main_metric, "in_average": task.in_average}, predictions

    def _encode(self, task: Task, split: str, files: Sequence[Sequence[str]]) -> EncodedSet:
        data = task.data_of(split)
        own = {path.relative_to(data.root).as_posix() for path in data.files()}
        of_split = [
            file for file in files if file[0] in own and "/" in file[0]
        ]  # class names do not change image features
        return encode_set(self.loaded, data, self.batch_size, self.threads, cache=self.cache, files=of_split)

    def _run_probes(
        self, task: Task, test: EncodedSet, files: Sequence[Sequence[str]], metrics: dict[str, object]
    ) -> dict[str, Any]:
        """Return the results of the probes, and add their figures to `metrics`."""
        assert task.train_split is not None
        sets = [test, self._encode(task, task.train_split, files)]
        sets += [self._encode(task, task.val_split, files)] if task.val_split else []
        pooled = all(each.pooled_RW is not None for each in sets)
        tested, train, *validation = [_examples(each, before_projection=pooled) for each in sets]
        examples = (train, validation[0] if validation else None, tested)
        classes = len(task.data.class_names())
        unreadable = [one.label for one, error in zip(test.samples, test.errors, strict=True) if error]
        found: dict[str, Any] = {"probe_features": "before the projection" if pooled else "embedding"}
        for name in task.probes:
            found[name], figures = plugins.find("protocols", name).run(*examples, classes, unreadable)
            metrics |= figures
        return found


def _examples(encoded: EncodedSet, *, before_projection: bool) -> Examples:
    features_RW = encoded.pooled_RW if before_projection else encoded.features_RD
    assert features_RW is not None
    return Examples(features_RW, torch.tensor([s.label for s in encoded.readable], device=features_RW.device))


def run_job(job: EvaluateJob) -> dict[str, dict[str, Any]]:
    """Load the checkpoint and evaluate it; all ranks together."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = resolve_device(job.device)
    (job.output / FAILURE).unlink(missing_ok=True)
    distributed.join(device)
    digest = digest_model(job.checkpoint)
    loaded = load_any(job.checkpoint, device=str(device))
    if isinstance(tower := getattr(loaded.model, "visual", None), BackboneTower):
        tower.encoder = tower.encoder.fold()
    if job.precision == "bf16":
        loaded.model.to(torch.bfloat16)
    elif job.precision == "bf16_texts":
        loaded.model.encode_text = autocast(device, "bf16")(loaded.model.encode_text)
    return evaluate(
        loaded,
        job.suite,
        job.output,
        checkpoint_digest=digest,
        batch_size=job.batch_size,
        precision=job.precision,
        threads=job.threads,
        features=job.features,
    )


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, EvaluateJob, run_job)


def _predictions_name(task: Task) -> str:
    return f"predictions-{task.name}.parquet"


def _result_name(task: Task) -> str:
    return f"results/{task.name}.json"


def _write_result(
    store: FolderStore, task: Task, fingerprint: str, result: dict[str, object], predictions: pa.Table
) -> None:
    """Write the predictions first, then the result with their digest, so that a result never names missing predictions."""
    data = encode_table(predictions).to_pybytes()
    store.put(_predictions_name(task), data)
    record = {"fingerprint": fingerprint, "predictions_sha256": sha256(data).hexdigest(), "result": result}
    store.put(_result_name(task), _to_json(record))


def _read_finished(store: FolderStore, task: Task, fingerprint: str) -> dict[str, Any] | None:
    """Return the result of an earlier, interrupted job if its inputs are the same and its predictions are whole."""
    if store.size(_result_name(task)) is None or store.size(_predictions_name(task)) is None:
        return None
    try:
        record = json.loads(store.read(_result_name(task)))
    except ValueError:  # a power failure can leave it empty
        return None
    whole = record["predictions_sha256"] == sha256(store.read(_predictions_name(task))).hexdigest()
    return record["result"] if whole and record["fingerprint"] == fingerprint else None


def _to_json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _summarize(task: Task, result: dict[str, Any]) -> str:
    def figure(name: str, record: dict[str, Any]) -> str:
        ends = format_interval(record["low"], record["high"], dash=", ")
        interval = "" if record["low"] is None else f" [{ends}]"
        chance = "" if record["chance"] is None else f" (chance {format_percent(record['chance'])})"
        return f"{name} {format_percent(record['value'])}{interval}{chance}"

    figures = ", ".join(figure(name, record) for name, record in result["metrics"].items())
    return f"evaluate {task.name}: {result['n']:,} images, {result['unreadable']} unreadable: {figures}"


if __name__ == "__main__":
    run_process(main)
