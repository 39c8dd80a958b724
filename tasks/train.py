"""train: contrastive pre-training as a subprocess job under torchrun.

The job's folder, with its checkpoints, lies under the local home and is named after the snapshot's key, so a killed
training goes on from its last checkpoint, on another machine from the last that the store has. The finished weights are
committed to the store.
"""

import json
import logging
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError
from dataops.snapshot import Counts, Input, Record
from tasks.evaluate import EvaluateConfig
from tasks.job import run_job
from tasks.stage import Made, Stage, Work
from tasks.train_checkpoints import CheckpointMirror
from tasks.train_live import LiveRun
from training.config import TrainConfig
from training.process import ELSEWHERE

logger = logging.getLogger(__name__)

OUTPUT = (
    "model.safetensors",
    "model.json",
    "tokenizer.json",
    "metrics.jsonl",
    "skipped.json",
    "evidence-throughput.jsonl",
)
STEP = re.compile(r"\bstep\s+(\d+)\s*/\s*(\d+)")


def outside(config: TrainConfig) -> list[Input]:
    """The files that a config names, digested: dimensions of one's own, a vocabulary, weights to start from.

    What is named on the Hub is known by its name alone: `@revision` holds it still.

    Raises: ConfigError where a file is not there.
    """
    named = {"train.model": config.model if config.model.endswith(".json") else None}
    named["train.vocabulary"] = None if config.vocabulary in ("captions", "clip") else config.vocabulary
    named["train.init"] = None if (config.init or "").startswith("hf-hub:") else config.init
    return [_file_input(field, Path(name)) for field, name in named.items() if name is not None]


def _file_input(field: str, path: Path) -> Input:
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    try:
        digests = [[file.name, file_sha256(file)] for file in files]
    except OSError as error:
        msg = f"{field}: {path} cannot be read ({error.strerror or error})"
        raise ConfigError(msg) from error
    return Input(stage=field, key=path.name, digest=sha256(canonical_json(digests).encode()).hexdigest())


def make(work: Work) -> Made:
    """Train on the packed dataset until the last step and write the weights, the tokenizer and the curves.

    The job's folder goes once a record says that all it made is in the store: whenever the run is killed, one of the two
    is there to go on from.
    """
    folder = work.context.home / "jobs" / f"train-{work.draft.key}"
    record = work.draft.done("train") or work.draft.finish(_train(work, folder))
    shutil.rmtree(folder, ignore_errors=True)
    return Made(record.parts, record.counts, record.facts)


def _train(work: Work, folder: Path) -> Record:
    dataset = work.inputs["pack"]
    store = work.draft.store
    tars = [dataset.path(part.name) for part in dataset.named("", ".tar")]
    shards = [store.local(name, keep_in=folder / "shards") for name in tars]
    for index in dataset.named("", ".idx"):  # beside its shard
        store.local(dataset.path(index.name), keep_in=folder / "shards")
    job: dict[str, Any] = {
        "train": work.config.model_dump(mode="json"),
        "seed": work.seed,
        "shards": [str(shard) for shard in shards],
        "checksums": {part.name: part.sha256 for part in dataset.named("", ".tar")},
        "output": str(folder),
    }
    if work.config.evaluate_every:
        suite = EvaluateConfig.model_validate(work.context.run_config.get("evaluate", {})).load()
        job["suite"] = suite.model_dump(mode="json")
    launcher = torchrun(work.config, work.draft.key, folder)
    if work.config.nnodes != "1":
        command = " ".join(["python", *launcher, "-m", "training.train", str(folder / "job.json")])
        logger.warning(
            "train: %s machines meet; on each other one run: %s=1 %s", work.config.nnodes, ELSEWHERE, command
        )

    mirror = CheckpointMirror(work.draft, folder, work.config.keep_checkpoints)

    def follow(line: str) -> None:
        logger.info("%s", line)
        mirror.see(line)
        if match := STEP.search(line):
            work.context.progress(int(match[1]), int(match[2]), line)

    with mirror, LiveRun(work, folder):
        mirror.restore()
        run_job("training.train", job, folder, launcher=launcher, on_line=follow)
    parts = [work.draft.put_file(name, folder / name) for name in OUTPUT]
    if (interim := folder / "evidence-suite.jsonl").exists():
        parts.append(work.draft.put_file(interim.name, interim))
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    facts = {"final": last, "model": work.config.model}
    samples = dataset.counts.kept
    return Record(task="train", parts=parts, counts=Counts(input=samples, kept=samples), facts=facts)


def torchrun(config: TrainConfig, key: str, folder: Path) -> tuple[str, ...]:
    """The arguments of Python that start a module on all ranks: here, or on each of several machines that meet."""
    meet: tuple[str, ...] = ("--standalone",)
    if config.nnodes != "1":
        meet = (f"--nnodes={config.nnodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={config.rdzv_endpoint}")
        meet += (f"--rdzv-id=train-{key}", f"--max-restarts={config.max_restarts}")
    # Without a folder for its logs, a killed torchrun leaves one among the system's temporary ones.
    return (
        "-m",
        "torch.distributed.run",
        *meet,
        f"--nproc-per-node={config.nproc}",
        f"--log-dir={folder / 'torchrun'}",
    )


TRAIN = Stage(name="train", version=4, make=make, outside=outside, conserves=False)
