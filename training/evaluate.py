"""The evaluation job: a checkpoint against a suite, as `python -m training.evaluate JOB.json`.

JOB.json: {"checkpoint": folder with model.safetensors, model.json and tokenizer.json, "suite": a Suite with absolute roots,
"output": folder, "batch_size": 256, "parent_pid": null, "device": "cpu", "threads": null}. Written below `output`, each
file atomically:

    predictions-<task>.parquet   a row an image (columns: PREDICTIONS of training/zero_shot.py and training/retrieval.py)
    results/<task>.json          the task's metrics and what they were made from; a restarted job reuses them
    metrics.json                 last: {"<task>": {"kind", "n", ..., "metrics":
                                 {"<metric>": {"value", "low", "high", "chance"}}}}

The same weights, data, batch size and kind of machine give the same bytes: no file holds a clock or an absolute path.
"""

import json
import logging
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError, PairmillError
from dataops.store import FolderStore
from training.checkpoint import MODEL_FILES, load_model
from training.encode import Evaluated
from training.process import follow_parent
from training.retrieval import retrieve
from training.suite import Suite, Task
from training.zero_shot import classify

METRICS = "metrics.json"
RESULT_VERSION = 1
"""Raised when the same checkpoint and data give another result: results of an older version are then not reused."""

logger = logging.getLogger(__name__)


class EvaluateJob(BaseModel):
    """What a job file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Path
    """Folder of the model's files."""
    suite: Suite
    """The tasks, their roots absolute."""
    output: Path
    """Folder that receives the results."""
    batch_size: int = Field(default=256, ge=1)
    """Images at once."""
    parent_pid: int | None = Field(default=None, gt=0)
    """Process whose end ends this one, within a second."""
    device: str = "cpu"
    """A torch device."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that decode and, on the CPU, encode; None: one a core. The results are the same on any number."""


def evaluate(
    loaded: Evaluated,
    suite: Suite,
    output: Path,
    *,
    checkpoint_digest: str,
    batch_size: int = 256,
    threads: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Run every task that has no finished result in `output` yet, and write metrics.json.

    Args:
        checkpoint_digest: of the model's files; results made from another model, data or batch size are remade.

    Returns: what metrics.json holds, tasks in the order of the suite.
    Raises: ContractError on damaged data, unreadable sets or features that are not finite.
    """
    store = FolderStore(output)
    cache: dict[tuple[str, ...], Tensor] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for task in suite.tasks:
        made_from = {
            "checkpoint": checkpoint_digest,
            "task": task.identity(),
            "batch_size": batch_size,
            "version": RESULT_VERSION,
        }
        fingerprint = sha256(canonical_json(made_from).encode()).hexdigest()
        result = _finished(store, task, fingerprint)
        if result is None:
            started = time.perf_counter()
            result, predictions = _run(loaded, task, batch_size, threads, cache)
            _write(store, task, fingerprint, result, predictions)
            logger.info("%s in %.1f s", _line(task, result), time.perf_counter() - started)
        else:
            logger.info("%s (reused)", _line(task, result))
        metrics[task.name] = result
    store.put(METRICS, _pretty(metrics))
    return metrics


def digest_checkpoint(folder: Path) -> str:
    """sha256 over the names and digests of a checkpoint's files.

    Raises: ConfigError when one is missing.
    """
    digests = []
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            msg = f"{folder / name}: missing; a checkpoint has model.safetensors, model.json and tokenizer.json"
            raise ConfigError(msg)
        digests.append([name, file_sha256(folder / name)])
    return sha256(canonical_json(digests).encode()).hexdigest()


def run_job(job: EvaluateJob) -> dict[str, dict[str, Any]]:
    """Load the checkpoint in full precision and evaluate it."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    digest = digest_checkpoint(job.checkpoint)
    loaded = load_model(job.checkpoint, device=job.device)
    return evaluate(
        loaded, job.suite, job.output, checkpoint_digest=digest, batch_size=job.batch_size, threads=job.threads
    )


def read_job(path: Path) -> EvaluateJob:
    """Read a job file.

    Raises: ConfigError naming the file and every wrong key.
    """
    try:
        return EvaluateJob.model_validate_json(path.read_bytes())
    except OSError as error:
        msg = f"{path}: cannot be read ({error})"
        raise ConfigError(msg) from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'job'}: {e['msg']}" for e in error.errors(include_url=False)]
        msg = "\n  ".join([f"{path}:", *lines])
        raise ConfigError(msg) from error


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names; returns the exit code of dataops/errors.py."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        if len(arguments) != 1:
            msg = "usage: python -m training.evaluate JOB.json"
            raise ConfigError(msg)
        job = read_job(Path(arguments[0]))
        if job.parent_pid is not None:
            follow_parent(job.parent_pid)
        run_job(job)
    except PairmillError as error:
        logger.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    return 0


def _run(
    loaded: Evaluated, task: Task, batch_size: int, threads: int | None, cache: dict[tuple[str, ...], Tensor]
) -> tuple[dict[str, Any], pa.Table]:
    if task.kind == "classification":
        return classify(loaded, task.data, batch_size, threads, cache)
    return retrieve(loaded, task.data, batch_size, threads)


def _predictions(task: Task) -> str:
    return f"predictions-{task.name}.parquet"


def _result(task: Task) -> str:
    return f"results/{task.name}.json"


def _write(store: FolderStore, task: Task, fingerprint: str, result: dict[str, Any], predictions: pa.Table) -> None:
    """Predictions first, then the result that names their digest: what is named is there."""
    buffer = pa.BufferOutputStream()
    pq.write_table(predictions, buffer, compression="zstd")
    data = buffer.getvalue().to_pybytes()
    store.put(_predictions(task), data)
    record = {"fingerprint": fingerprint, "predictions_sha256": sha256(data).hexdigest(), "result": result}
    store.put(_result(task), _pretty(record))


def _finished(store: FolderStore, task: Task, fingerprint: str) -> dict[str, Any] | None:
    """The result of an earlier, interrupted job, if it was made from the same things and its predictions are whole."""
    if store.size(_result(task)) is None or store.size(_predictions(task)) is None:
        return None
    try:
        record = json.loads(store.read(_result(task)))
    except ValueError:  # emptied by a lost power supply
        return None
    whole = record["predictions_sha256"] == sha256(store.read(_predictions(task))).hexdigest()
    return record["result"] if whole and record["fingerprint"] == fingerprint else None


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _line(task: Task, result: dict[str, Any]) -> str:
    def figure(name: str, record: dict[str, Any]) -> str:
        interval = "" if record["low"] is None else f" [{record['low']:.2%}, {record['high']:.2%}]"
        return f"{name} {record['value']:.2%}{interval} (chance {record['chance']:.2%})"

    figures = ", ".join(figure(name, record) for name, record in result["metrics"].items())
    return f"evaluate {task.name}: {result['n']:,} images, {result['unreadable']} unreadable: {figures}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
