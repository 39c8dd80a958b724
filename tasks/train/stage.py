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
from dataops.snapshot import Counts, Input, Manifest, Record
from dataops.store import Store
from tasks.engine.stage import Stage, StageOutput, Work
from tasks.engine.subprocess_job import run_job, torchrun_launcher
from tasks.evaluate.config import EvaluateConfig
from tasks.train.checkpoint_mirror import CheckpointMirror
from tasks.train.live_metrics import LiveRun
from tasks.train.shard_supply import ShardSupply
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


def external_inputs(config: TrainConfig) -> list[Input]:
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
        raise ConfigError(f"{field}: {path} cannot be read ({error.strerror or error})") from error
    return Input(stage=field, key=path.name, digest=sha256(canonical_json(digests).encode()).hexdigest())


def make(work: Work[TrainConfig]) -> StageOutput:
    """Train on the packed dataset until the last step and write the weights, the tokenizer and the curves.

    The job's folder goes once a record says that all it made is in the store: whenever the run is killed, one of the two
    is there to go on from.
    """
    folder = work.context.home / "jobs" / f"train-{work.draft.key}"
    record = work.draft.done("train") or work.draft.finish(_train(work, folder))
    shutil.rmtree(folder, ignore_errors=True)
    return StageOutput(record.parts, record.counts, record.facts)


def _train(work: Work[TrainConfig], folder: Path) -> Record:
    dataset, shards = work.inputs["pack"], folder / "shards"
    job = job_of(work, shards, folder)
    launcher = build_launcher(work.config, work.draft.key, folder)
    if work.config.nnodes != "1" and work.config.launch != "ray":
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

    tars = {dataset.path(part.name): part for part in dataset.named("", ".tar")}
    supply = ShardSupply(work.draft.store, tars, shards, work.config.shard_cache_bytes)
    with mirror, supply, LiveRun(work, folder):
        mirror.restore()
        run_job("training.train", job, folder, launcher=launcher, on_line=follow)
    parts = [work.draft.put_file(name, folder / name) for name in OUTPUT]
    if (interim := folder / "evidence-suite.jsonl").exists():
        parts.append(work.draft.put_file(interim.name, interim))
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    precision = json.loads((folder / "done.json").read_text())["precision"]
    facts = {"final": last, "model": work.config.model, "precision": precision}
    samples = dataset.counts.kept
    return Record(task="train", parts=parts, counts=Counts(input=samples, kept=samples), facts=facts)


def job_of(work: Work[TrainConfig], shards: Path, output: Path) -> dict[str, Any]:
    """What the job file is to hold; brings the shards here, or what is needed of all of them.

    Args:
        shards: folder for them.
        output: folder of the job.
    """
    dataset, limit = work.inputs["pack"], work.config.shard_cache_bytes
    tars = dataset.named("", ".tar")
    job: dict[str, Any] = {
        "train": work.config.model_dump(mode="json"),
        "seed": work.seed,
        "shards": [str(shard) for shard in (_beside if limit else _whole)(work.draft.store, dataset, shards)],
        "checksums": {part.name: part.sha256 for part in tars},
        "arriving": {part.name: part.bytes for part in tars} if limit else {},
        "output": str(output),
    }
    if work.config.evaluate_every:
        suite = EvaluateConfig.model_validate(work.context.run_config.get("evaluate", {})).load()
        job["suite"] = suite.model_dump(mode="json")
    return job


def build_launcher(config: TrainConfig, key: str, folder: Path, address: str | None = None) -> tuple[str, ...]:
    """The launcher of a job on all its ranks: here, or on each of several machines that meet.

    Args:
        address: of this machine where the others meet at another one; only Ray knows it.
    """
    if config.nnodes == "1":
        return torchrun_launcher(config.nproc, folder)
    meet = (f"--nnodes={config.nnodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={config.rdzv_endpoint}")
    if config.launch == "ray":  # torchrun would guess both from names, which may not lead to the machine
        host = str(config.rdzv_endpoint).rpartition(":")[0]
        meet += (f"--local-addr={address or host}", f"--rdzv-conf=is_host={int(address is None)}")
    return torchrun_launcher(
        config.nproc, folder, (*meet, f"--rdzv-id=train-{key}", f"--max-restarts={config.max_restarts}")
    )


def _whole(store: Store, dataset: Manifest, folder: Path) -> list[Path]:
    """All shards, on this machine; and their indexes, beside them."""
    for index in dataset.named("", ".idx"):
        store.local(dataset.path(index.name), keep_in=folder)
    return [store.local(dataset.path(part.name), keep_in=folder) for part in dataset.named("", ".tar")]


def _beside(store: Store, dataset: Manifest, folder: Path) -> list[Path]:
    """Where the shards will lie, beside what is needed of all of them: their indexes and rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in (*dataset.named("", ".idx"), *dataset.named("part-", ".parquet")):
        if not (folder / part.name).exists():
            store.download(dataset.path(part.name), folder / f".{part.name}")
            (folder / f".{part.name}").rename(folder / part.name)
    return [folder / part.name for part in dataset.named("", ".tar")]


TRAIN = Stage(name="train", version=4, make=make, external_inputs=external_inputs, conserves_rows=False)
