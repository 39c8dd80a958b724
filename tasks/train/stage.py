"""The stage `train`: contrastive pre-training as a subprocess job, of one or several ranks.

The job's folder, with its checkpoints, is in the local home folder and named after the key of the
snapshot, so a killed training resumes from its last checkpoint; on another machine, from the last
one in the store. The finished weights are committed to the store.
"""

import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataops.digest import files_sha256
from dataops.errors import ConfigError, ContractError, JobFailed
from dataops.facts import TrainFacts
from dataops.formatting import format_quantity
from dataops.process import ELSEWHERE
from dataops.snapshot import Counts, Input, Manifest, Part, Record, find_manifest
from dataops.store import Store
from dataops.trace.requests import load_report, report_name
from tasks.engine.context import IS_PROGRESS, READ
from tasks.engine.stage import Stage, StageOutput, Work
from tasks.engine.subprocess_job import ranks_launcher, run_job, torchrun_launcher
from tasks.evaluate.config import EvaluateConfig
from tasks.growth.versions import find_packs
from tasks.search import find_unapplied
from tasks.train.curves import CurveFollower, LiveRun
from tasks.train.transfers import CheckpointMirror, ShardSupply
from training.config import TrainConfig
from training.hooks import used_hooks
from training.model_config import MODEL_FILES

logger = logging.getLogger(__name__)

CONNECTIONS = 16
"""Downloads at a time."""

RETRY_SECONDS = 1.0
"""How long another node than the first waits before it starts its ranks again."""

END_SECONDS = 600.0
"""How long it waits after the last step until the first node has committed the model, to delete its own files."""

FEW_STEPS = 20
"""Number of steps below which a training is hardly one; its first steps alone warm up."""


@dataclass(frozen=True)
class LocalDataset:
    """A dataset with the paths of its shards on this machine."""

    manifest: Manifest
    shards: list[Path]
    """In the order of the parts `tars`."""

    @property
    def tars(self) -> list[Part]:
        """The parts that are shards."""
        return self.manifest.named("", ".tar")


def named_inputs(config: TrainConfig, store: Store) -> list[Input]:
    """Return the datasets that a config names, and those of the version that its own adds to, as inputs.

    Raises: ConfigError if one is not in the store, or a takedown request removes pairs of it.
    """
    found = find_further(config, store)
    for manifest in found:
        _check_takedowns(manifest, store)
    return [manifest.as_input() for manifest in found]


def find_further(config: TrainConfig, store: Store) -> list[Manifest]:
    """Return the datasets of a training beside the run's own: those of the version that it adds to, and those that the
    config names, in its order.

    Raises: ConfigError or ContractError if one is not in the store.
    """
    grown = find_packs(store, config.base) if config.base is not None else []
    return [*grown, *(_find_named(str(table.key), store) for table in config.dataset if table.key is not None)]


def find_datasets(config: TrainConfig, own: Manifest, store: Store) -> list[Manifest]:
    """Return the datasets of a training: the run's own, those of the version that it adds to, and those that the config
    names, in its order.

    Raises: ConfigError if one is not in the store, or two have the same content.
    """
    found = [own, *find_further(config, store)]
    known: dict[str, Manifest] = {}
    for manifest in found:
        if (same := known.setdefault(manifest.content_digest, manifest)) is not manifest:
            whose = "the run's own dataset" if same is own else f"pack/{same.key}"
            raise ConfigError(
                f"train.dataset: pack/{manifest.key} has the content of {whose}; name each dataset once, with the sum of "
                "its weights"
            )
    return found


def _find_named(key: str, store: Store) -> Manifest:
    manifest = find_manifest(store, "pack", key)
    if manifest is None:
        raise ConfigError(
            f"train.dataset: there is no complete dataset pack/{key} in {store.uri}; `pairmill runs` lists the runs, and "
            "`pairmill show RUN_ID` the key of a run's dataset"
        )
    return manifest


def _check_takedowns(manifest: Manifest, store: Store) -> None:
    """Raise ConfigError if a takedown request that is newer than a dataset removes pairs of it.

    The dataset of the run itself is rebuilt without these pairs where its sources are, since requests are inputs of
    `pack`; elsewhere, `_train` refuses it.
    """
    if newer := find_unapplied(store, manifest):
        versions = [load_report(store, report_name(source.key)).versions.get(manifest.key) for source in newer]
        successor = next(filter(None, reversed(versions)), None)
        remedy = f'its next version, key = "{successor}"' if successor else "a version that was made after them"
        raise ConfigError(f"train.dataset: takedown requests remove pairs of pack/{manifest.key}; name {remedy}")


def download_datasets(store: Store, datasets: list[Manifest], folder: Path) -> list[LocalDataset]:
    """Download all shards and their indexes; those of several datasets into a folder for each."""
    found: list[LocalDataset] = []

    def fetch(dataset: Manifest, keep_in: Path, part: Part) -> Path:
        kept = keep_in / part.name  # from an earlier start; the trainer compares its checksum
        is_kept = kept.is_file() and kept.stat().st_size == part.bytes
        return kept if is_kept else store.local(dataset.path(part.name), keep_in=keep_in)

    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="shards") as pool:
        for dataset in datasets:
            tars = dataset.named("", ".tar")
            fetch_part = partial(fetch, dataset, folder if len(datasets) == 1 else folder / dataset.key)
            parts = (*tars, *dataset.named("", ".idx"))
            if store.is_remote:
                paths = list(pool.map(fetch_part, parts))
            else:
                paths = store.locals([dataset.path(part.name) for part in parts])
            found.append(LocalDataset(dataset, paths[: len(tars)]))
    return found


def download_indexes(store: Store, datasets: list[Manifest], folder: Path) -> list[LocalDataset]:
    """Download the indexes and rows of all shards, into one folder; return the paths that the shards will have."""
    folder.mkdir(parents=True, exist_ok=True)
    is_mixture = len(datasets) > 1

    def download(dataset: Manifest, part: Part) -> None:
        name = local_name(dataset, part.name, is_mixture=is_mixture)
        if not (folder / name).exists():
            store.download(dataset.path(part.name), folder / f".{name}")
            (folder / f".{name}").rename(folder / name)

    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="shards") as pool:
        for dataset in datasets:
            parts = (*dataset.named("", ".idx"), *dataset.named("part-", ".parquet"))
            list(pool.map(partial(download, dataset), parts))
    return [
        LocalDataset(one, [folder / local_name(one, p.name, is_mixture=is_mixture) for p in one.named("", ".tar")])
        for one in datasets
    ]


def local_name(dataset: Manifest, name: str, *, is_mixture: bool) -> str:
    """Return the file name of a part in the one folder of all shards; the rows of X.tar are in part-X.parquet."""
    if not is_mixture:
        return name
    prefix = "part-" if name.startswith("part-") else ""
    return f"{prefix}{dataset.key}-{name.removeprefix(prefix)}"


def describe_few_steps(config: TrainConfig, samples: float) -> str | None:
    """Return a warning if a training on at most this number of samples has few steps, else None."""
    steps = math.ceil(samples / config.batch_size) * config.epochs
    if steps >= FEW_STEPS:
        return None
    epochs = format_quantity(config.epochs, "epoch")
    of = f"{format_quantity(math.ceil(samples), 'pair')} in batches of {config.batch_size:,}, {epochs}"
    return f"{format_quantity(steps, 'step')} only ({of}); a smaller train.batch_size or more train.epochs give more"


OUTPUT = (*MODEL_FILES, "metrics.jsonl", "skipped.json", "evidence-throughput.jsonl")
STEP = re.compile(r"\bstep (\d+)/(\d+), (?:[\d,]+ samples, )?(.*)")
"""Line of the trainer about a step: the step, the number of steps, and the loss with other measurements."""
PLAN = re.compile(r"\b(\d+) steps of \d+ epochs from step (\d+)")
"""Part of the trainer's first line: the number of steps, and the step of the checkpoint that it resumes from."""


def external_inputs(config: TrainConfig) -> list[Input]:
    """Return the digests of the files that a config names: a model config, a vocabulary, initial weights, towers.

    A model on the Hub is identified by its name alone: `@revision` fixes its content.

    Raises: ConfigError if a file is missing.
    """
    paths = {"train.model": config.model if config.model.endswith(".json") else None}
    paths["train.vocabulary"] = None if config.vocabulary in ("captions", "clip") else config.vocabulary
    paths["train.init"] = None if (config.init or "").startswith("hf-hub:") else config.init
    found = [digest_path(field, Path(path)) for field, path in paths.items() if path is not None]
    return [*found, *(one for hook in used_hooks(config) for one in hook.external_inputs(config))]


def digest_path(field: str, path: Path) -> Input:
    """Return an input for the file or folder that a field names.

    Raises: ConfigError if it cannot be read.
    """
    try:
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        return Input(stage=field, key=path.name, digest=files_sha256(files))
    except OSError as error:
        raise ConfigError(f"{field}: {path} cannot be read ({error.strerror or error})") from error


def describe_weights(config: TrainConfig) -> list[dict[str, Any]]:
    """Return tower, name, version, license, file and sha256 of all weights that a training starts from.

    What a config does not state, such as the licence of `init`, is "".
    """
    found = [one for hook in used_hooks(config) for one in hook.describe_weights(config)]
    if config.init is not None:
        tower = "image" if config.init_towers == "image" else "both"
        is_path = not config.init.startswith("hf-hub:")
        digest = digest_path("train.init", Path(config.init)).digest if is_path else ""
        name = Path(config.init).name if is_path else config.init
        found.append({"tower": tower, "name": name, "version": "", "license": "", "file": "", "sha256": digest})
    return found


def make(work: Work[TrainConfig]) -> StageOutput:
    """Train on the packed datasets and write the weights, the tokenizer and the curves.

    The job's folder is deleted once a record states that all its output is in the store: whenever
    the run is killed, it can resume from one of the two.
    """
    folder = work.context.home / "jobs" / f"train-{work.draft.key}"
    record = work.draft.done("train") or work.draft.finish(_train(work, folder))
    shutil.rmtree(folder, ignore_errors=True)
    return StageOutput(record.parts, record.counts, TrainFacts.of(record))


def _train(work: Work[TrainConfig], folder: Path) -> Record:
    """Run the job to its last step and put its output into the store."""
    shards, config, store, own = folder / "shards", work.config, work.draft.store, work.inputs["pack"]
    if problems := [problem for hook in used_hooks(config) for problem in hook.problems(config)]:
        raise ConfigError(f"train.{problems[0]}")
    if not store.names(work.draft.scratch("checkpoints")) and find_unapplied(store, own):  # else it continues
        raise ContractError(
            f"takedown requests remove pairs of pack/{own.key}, which this run trains on; on a machine with its sources, "
            "`pairmill rerun RUN_ID --until pack` makes it without them, and then this training can start again"
        )
    if warning := describe_few_steps(config, sum(one.counts.kept for one in _find_datasets(work))):
        logger.warning("train: %s", warning)
    for hook in used_hooks(config):
        hook.prepare_job(config, store, _find_datasets(work), folder)
    job = build_job(work, shards, folder)
    launcher = build_launcher(config, work.draft.key, folder)
    if config.nnodes != "1" and not config.is_on_cluster:
        command = " ".join(["python", *launcher, "-m", "training.train", str(folder / "job.json")])
        logger.warning(
            "train: waiting for %s nodes; on each other node run: %s=1 %s", config.nnodes, ELSEWHERE, command
        )

    mirror = CheckpointMirror(work.draft, folder, config.keep_checkpoints, rollback_every=config.rollback_every)

    def follow_log(line: str) -> None:
        mirror.follow_log(line)
        step, read = STEP.search(line), READ.search(line)
        logger.info("%s", line, extra={IS_PROGRESS: step is not None or read is not None})
        if step:
            work.context.progress(int(step[1]), int(step[2]), step[3])
        elif read:
            work.context.progress(0, 0, read[0])
        elif plan := PLAN.search(line):
            work.context.progress(int(plan[2]), int(plan[1]), "")

    supply = ShardSupply(store, _list_arriving(work), shards, config.shard_cache_bytes)
    curves = CurveFollower(work, folder)
    with mirror, supply, LiveRun(work, folder), curves:
        mirror.restore()
        work.context.progress(0, 0, "the trainer starts: it loads torch, the tokenizer and the model")
        run_job(*("training.train", job, folder), launcher=launcher, on_line=follow_log, on_stop=work.context.stopped)
    return _collect_output(work, folder)


def _collect_output(work: Work[TrainConfig], folder: Path) -> Record:
    parts = [work.draft.put_file(name, folder / name) for name in OUTPUT]
    optional = (folder / name for name in ("evidence-suite.jsonl", "holdout.jsonl"))
    parts += [work.draft.put_file(path.name, path) for path in optional if path.exists()]
    further = (path for hook in used_hooks(work.config) for path in hook.list_output(folder))
    parts += [work.draft.put_file("-".join(path.relative_to(folder).parts), path) for path in further]
    last_row = json.loads((folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    done = json.loads((folder / "done.json").read_text("utf-8"))
    facts: dict[str, Any] = {name: done[name] for name in ("bad_steps", "holdout", "processor") if name in done}
    if weights := describe_weights(work.config):
        facts["weights"] = weights
    facts |= {str(hook.table): found for hook in used_hooks(work.config) if (found := hook.facts(folder))}
    datasets = _find_datasets(work)
    if work.config.dataset:
        facts["datasets"] = [
            {"key": one.key, **counted} for one, counted in zip(datasets, done["datasets"], strict=True)
        ]
    samples = sum(dataset.counts.kept for dataset in datasets)
    return Record(
        task="train",
        parts=parts,
        counts=Counts(input=samples, kept=samples),
        facts=TrainFacts(final=last_row, model=work.config.model, precision=done["precision"], **facts).as_json(),
    )


def run_other_node(work: Work[TrainConfig], node: int, is_over: Callable[[], bool]) -> None:
    """Run the ranks of another node than the first, with a folder of its own, until the training is over.

    With sharding, it copies its parts of the checkpoints to the store, and begins with the newest checkpoint there: a node
    that was lost may have been the only one with some parts.

    Args:
        node: its number, from 1.
        is_over: whether the first node does not train any more.

    Raises: the error of the job, unless it is retryable: the first node may still wait for its lease.
    """
    folder = work.context.home / "jobs" / f"train-{work.draft.key}-{node}"
    job = build_job(work, folder / "shards", folder)
    launcher = build_launcher(work.config, work.draft.key, folder, node)
    with CheckpointMirror(work.draft, folder, work.config.keep_checkpoints, node=node) as mirror:
        while not is_over():
            if work.config.sharding != "none":
                mirror.restore()
            try:
                run_job("training.train", job, folder, launcher=launcher, on_line=mirror.follow_log)
                deadline = time.monotonic() + END_SECONDS
                while not is_over() and time.monotonic() < deadline:
                    time.sleep(RETRY_SECONDS)
                break
            except JobFailed as error:
                if not error.retryable:
                    raise
                logger.warning("%s", error)
                time.sleep(RETRY_SECONDS)
    if work.draft.is_complete():
        work.draft.store.delete_tree(work.draft.scratch("checkpoints"))  # what this node copied after the commit
        shutil.rmtree(folder, ignore_errors=True)


def build_job(work: Work[TrainConfig], shards: Path, output: Path) -> dict[str, Any]:
    """Return the content of the job file, and download the shards, or their indexes if the shards are supplied later.

    Args:
        shards: folder for them.
        output: folder of the job.
    """
    limit = work.config.shard_cache_bytes
    download = download_indexes if limit else download_datasets
    datasets = _find_datasets(work)
    config = work.config.with_precision().with_holdout(sum(dataset.counts.kept for dataset in datasets))
    local = download(work.draft.store, datasets, shards)
    files = [(path, part) for one in local for path, part in zip(one.shards, one.tars, strict=True)]
    is_mixture = len(local) > 1
    job: dict[str, Any] = {
        "train": config.model_dump(mode="json"),
        "seed": work.seed if work.config.seed is None else work.config.seed,
        "shards": [str(path) for path, _ in files],
        "datasets": [len(one.shards) for one in local] if work.config.dataset else [],
        "checksums": {str(path) if is_mixture else path.name: part.sha256 for path, part in files},
        "arriving": {path.name: part.bytes for path, part in files} if limit else {},
        "output": str(output),
        "features": str(work.context.home / "features"),
    }
    evaluate = EvaluateConfig.model_validate(work.context.run_config.get("evaluate", {}))
    if work.config.evaluate_every and (evaluate.suite is not None or not config.holdout):
        job["suite"] = evaluate.load().model_dump(mode="json")
    return job


def _find_datasets(work: Work[TrainConfig]) -> list[Manifest]:
    return find_datasets(work.config, work.inputs["pack"], work.draft.store)


def _list_arriving(work: Work[TrainConfig]) -> dict[str, tuple[str, Part]]:
    """Return name in the store and part of each shard, by its file name in the job's folder."""
    datasets = _find_datasets(work)
    return {
        local_name(dataset, part.name, is_mixture=len(datasets) > 1): (dataset.path(part.name), part)
        for dataset in datasets
        for part in dataset.named("", ".tar")
    }


def build_launcher(config: TrainConfig, key: str, folder: Path, node: int = 0) -> tuple[str, ...]:
    """Return the arguments of Python that start all ranks of this node; several nodes meet by torchrun.

    Args:
        node: number of this node; another one than the first is started by the executor of a cluster only.
    """
    if config.nnodes == "1":
        return ranks_launcher(config.nproc)
    rendezvous = (f"--nnodes={config.nnodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={config.rdzv_endpoint}")
    if config.is_on_cluster:  # torchrun would infer both from host names, which may not resolve to the node
        # torch sorts the nodes by this address, and uses that of the first one only: its ranks come first, and write.
        address = f"~{node:05d}" if node else str(config.rdzv_endpoint).rpartition(":")[0]
        rendezvous += (f"--local-addr={address}", f"--rdzv-conf=is_host={int(node == 0)}")
    options = (*rendezvous, f"--rdzv-id=train-{key}", f"--max-restarts={config.max_restarts}")
    return torchrun_launcher(config.nproc, folder, options, allow_network=config.allow_network)


TRAIN = Stage(
    name="train",
    version=8,
    make=make,
    external_inputs=external_inputs,
    config_inputs=named_inputs,
    conserves_rows=False,
)
