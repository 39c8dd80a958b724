"""What a start of a job computes from its data, and remembers for the next one, which then takes seconds.

`prepared/` in the job's folder holds the index of the samples, digests of the shards and of the
suite's files, the vocabulary that was learnt from the captions, and the number of samples of each
epoch. Each is computed again if it is missing, damaged, or was computed from other data. The folder
is deleted when the training is done.
"""

import json
import logging
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from dataops.digest import RememberedDigests, canonical_json, text_sha256
from dataops.errors import ConfigError, ContractError
from dataops.formatting import format_quantity
from dataops.regular_files import read_text
from training import distributed
from training.config import TrainConfig
from training.data.epoch_order import Windows
from training.data.loader import Dataset
from training.data.mixture import Component, Mixture
from training.data.sample_index import SampleIndex, build_index, fingerprint_shards, open_index, verify_index
from training.data.sampling_plan import Plan
from training.data.shard_files import ShardFiles, find_checksum
from training.job import Job, prepared_folder
from training.model.checkpoint import write_atomically
from training.model.pretrained_tokenizer import load_tower_tokenizer
from training.model.tokenizer import Tokenizer, make_tokenizer, parse_trained_tokenizer, train_tokenizer
from training.model_config import ModelConfig, TextConfig
from training.step_hooks import used_step_hooks

logger = logging.getLogger(__name__)


def check_shards(job: Job) -> None:
    """Compare the shards' checksums, each rank those of its share of its machine's; all ranks together.

    Raises: ContractError if the bytes of a shard differ from the dataset's manifest.
    """
    found = [(s, find_checksum(job.checksums, s)) for s in job.shards if s.name not in job.arriving]
    checked = [(shard, checksum) for shard, checksum in found if checksum is not None]
    mine = checked[distributed.local_rank() :: distributed.local_world_size()]
    folder, name = prepared_folder(job), f"shards-{_host()}"
    digests = RememberedDigests(folder / f"{name}-{distributed.local_rank()}.json", folder.glob(f"{name}-*.json"))

    threads = max(job.train.loader_threads, 1)

    def check_some(number: int) -> None:
        for shard, expected in mine[number::threads]:
            if digests.sha256(shard) != expected:
                raise ContractError(f"shard {shard} differs from its dataset's manifest: its sha256 is another one")

    def check() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(check_some, range(threads)))
        digests.save()

    distributed.run_together(check if mine else None)


def prepare_index(job: Job) -> SampleIndex:
    """Return the index of a job's samples, which one rank of each machine verifies, or builds; all ranks together.

    A machine whose shards differ from those of rank 0's, such as in their times, has an index of
    its own.

    Raises: as build_index.
    """
    folder = prepared_folder(job)
    files = ShardFiles(job.shards, job.arriving)
    train = job.train
    options: dict[str, Any] = {"blur_faces": train.blur_faces, "with_rows": train.captions is not None}
    options["holdout"] = train.holdout or 0.0

    def prepare(folders: list[Path]) -> list[str]:
        fingerprint = fingerprint_shards(files, job.checksums, **options)
        for found in folders:
            if verify_index(found, fingerprint):
                return [found.name, fingerprint]
        started = time.monotonic()
        build_index(folders[-1], files, fingerprint, **options, workers=train.loader_threads)
        shards = format_quantity(len(job.shards), "shard")
        logger.info("the samples of %s are indexed in %.1f s", shards, time.monotonic() - started)
        return [folders[-1].name, fingerprint]

    shared = [folder / "index"]
    first = distributed.run_together((lambda: prepare(shared)) if distributed.rank() == 0 else None)
    is_other_machine = distributed.local_rank() == 0 and distributed.rank() > 0
    own = distributed.run_together(
        (lambda: prepare([*shared, folder / f"index-{_host()}"])) if is_other_machine else None
    )
    files.close()
    of_machine = distributed.rank() - distributed.local_rank()
    name, fingerprint = distributed.gather_objects(first or own)[of_machine]
    index = open_index(folder / name, fingerprint)
    if index is None:
        raise ContractError(f"the index of the samples in {folder / name} changed while the job started")
    return index


def prepare_plan(job: Job, config: TrainConfig, index: SampleIndex) -> Plan:
    """Return the plan of a job's samples, as the hooks change it; all ranks together.

    Raises: ContractError, ConfigError if a dataset of a mixture gives no sample, or as the hooks.
    """
    plan = _prepare_plan(job, config, index)
    for hook in used_step_hooks(config):
        plan = hook.change_plan(plan, job, index)
    return plan


def _prepare_plan(job: Job, config: TrainConfig, index: SampleIndex) -> Plan:
    parts = (len(index), config, job.seed, index.sampling, index.windows(config.shuffle_shards))
    if job.datasets:
        return Plan(*parts, mixture=_prepare_mixture(job, config, index))
    if index.sampling is None:
        return Plan(*parts)
    sizes = _remember(job, "epochs.json", [index.fingerprint, job.seed, config.epochs], Plan(*parts).count_epochs)
    return Plan(*parts, tuple(sizes))


def _prepare_mixture(job: Job, config: TrainConfig, index: SampleIndex) -> Mixture:
    components = list_components(job, config, index)
    mixture = Mixture(job.seed, components)
    if index.sampling is not None:
        weights = [str(one.weight) for one in components]
        decides = [index.fingerprint, job.seed, config.epochs, job.datasets, weights]
        sizes = _remember(job, "epochs.json", decides, lambda: mixture.count_passes(config.epochs))
        mixture = Mixture(job.seed, components, sizes)
    for number, (one, stream, quota) in enumerate(zip(components, mixture.streams, mixture.quotas, strict=True), 1):
        name = f"dataset {number} of train.dataset"
        if stream.span(0)[1] == 0:
            raise ContractError(f"{name} has {one.samples:,} samples, and sampling_probability draws none of them")
        if quota == 0:
            total = f"{mixture.epoch_samples:,} samples of an epoch"
            raise ConfigError(f"{name} gives none of the {total}: raise its weight, {float(one.weight):g}")
        in_batch = quota * config.batch_size / mixture.epoch_samples
        if in_batch > stream.span(0)[1] and distributed.rank() == 0:
            logger.warning("%s has %s samples, so a batch holds some of them twice", name, f"{stream.span(0)[1]:,}")
    return mixture


def list_components(job: Job, config: TrainConfig, index: SampleIndex) -> list[Component]:
    """Return the datasets of a job's mixture.

    Raises: ContractError if one has no sample.
    """
    components: list[Component] = []
    first_shard = first = 0
    for number, (shards, table) in enumerate(zip(job.datasets, config.dataset, strict=True), 1):
        sizes = index.sizes[first_shard : first_shard + shards]
        samples = int(sizes.sum())
        if samples == 0:
            reason = f"; the first reason: {index.skipped[0].reason}" if index.skipped else ""
            raise ContractError(
                f"dataset {number} of train.dataset has no pair of image and caption that can be used{reason}"
            )
        sampling = index.sampling
        if sampling is not None and sampling.probabilities[first : first + samples].min() == 1:
            sampling = None
        at_once = config.shuffle_shards
        windows = Windows(sizes, at_once, first_shard, first) if at_once else None
        # The decimal number in the config, not its binary approximation, so that quotas can be computed by hand.
        components.append(Component(first, samples, Fraction(str(table.weight)), sampling, windows))
        first_shard, first = first_shard + shards, first + samples
    return components


def prepare_tokenizer(job: Job, dataset: Dataset, dimensions: ModelConfig) -> Tokenizer:
    """Return the tokenizer that a job names; a vocabulary of the captions is learnt by rank 0; all ranks together.

    Raises: as make_tokenizer; ContractError as load_tower_tokenizer.
    """
    config, context_length = job.train, dimensions.text_cfg.context_length
    if not isinstance(dimensions.text_cfg, TextConfig):
        for hook in used_step_hooks(config):
            if (tokenizer := hook.load_tokenizer(config, dimensions)) is not None:
                return tokenizer
        if not (path := Path(config.vocabulary)).is_file():
            raise ConfigError(
                "vocabulary: the model's text tower has one of its own; set text_init, or its tokenizer.json"
            )
        return load_tower_tokenizer(path, dimensions.text_cfg)
    if config.vocabulary != "captions":
        return make_tokenizer(config.vocabulary, (), config.vocab_size, context_length)
    decides = [dataset.index.fingerprint, config.prompts, config.vocab_size, context_length]
    decides += [] if config.captions is None else [sorted(config.captions.items())]

    def learn() -> str:
        texts = chain(config.prompts, dataset.captions())
        return train_tokenizer(texts, config.vocab_size, context_length).to_json()

    return parse_trained_tokenizer(_remember(job, "vocabulary.json", decides, learn), context_length)


def _remember(job: Job, name: str, decides: object, compute: Callable[[], Any]) -> Any:
    """Return a value on every rank, which rank 0 reads from a file or computes; all ranks together.

    Args:
        name: of the file, with the digest of the value.
        decides: all that the value depends on.
        compute: returns a value that JSON holds exactly.
    """
    path, key = prepared_folder(job) / name, text_sha256(canonical_json(decides))

    def read_or_compute() -> Any:
        try:
            known = json.loads(read_text(path))
            if known["key"] == key and known["sha256"] == text_sha256(canonical_json(known["value"])):
                return known["value"]
        except (OSError, ValueError, TypeError, KeyError):
            pass
        value = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"key": key, "sha256": text_sha256(canonical_json(value)), "value": value}
        write_atomically(path, canonical_json(content))
        return value

    return distributed.run_on_first(read_or_compute)


def _host() -> str:
    return "".join(c if c.isalnum() else "-" for c in platform.node())[:64]
