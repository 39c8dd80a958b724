"""The datasets that a training reads: that of its run, and those that `[[train.dataset]]` names."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataops.errors import ConfigError
from dataops.formatting import format_quantity
from dataops.snapshot import Input, Manifest, Part, find_manifest
from dataops.store import Store
from dataops.trace.requests import list_requests, load_report, load_targets, report_name, select_requests
from tasks.growth.versions import find_packs
from tasks.lineage.search import Rows, Search
from training.config import TrainConfig

CONNECTIONS = 16
"""Downloads at a time. A resumed job asks the store for each shard whether its copy is the newest, which takes no CPU."""

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
    found = [*find_grown(config, store), *find_named(config, store)]
    for manifest in found:
        _check_takedowns(manifest, store)
    return [manifest.as_input() for manifest in found]


def find_named(config: TrainConfig, store: Store) -> list[Manifest]:
    """Return the datasets that a config names by key, in its order. Raises: ConfigError if one is not in the store."""
    return [_find_named(str(table.key), store) for table in config.dataset if table.key is not None]


def find_grown(config: TrainConfig, store: Store) -> list[Manifest]:
    """Return the datasets of the version that the run's own dataset adds to. Raises: ContractError if one is missing."""
    return find_packs(store, config.base) if config.base is not None else []


def find_datasets(config: TrainConfig, own: Manifest, store: Store) -> list[Manifest]:
    """Return the datasets of a training: the run's own, those of the version that it adds to, and those that the config
    names, in its order.

    Raises: ConfigError if one is not in the store, or two have the same content.
    """
    found = [own, *find_grown(config, store), *find_named(config, store)]
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

    The dataset of the run itself is rebuilt without these pairs, since requests are inputs of
    `pack`.
    """
    applied = {source.key for source in select_requests(manifest.inputs)}
    newer = [source for source in list_requests(store) if source.key not in applied]
    if not newer or not (targets := load_targets(store, newer)):
        return
    search = Search(store)
    if hits := search.find(Rows(manifest, "part-"), targets):
        versions = [load_report(store, report_name(source.key)).versions.get(manifest.key) for source in newer]
        successor = next((key for key in reversed(versions) if key), None)
        remedy = f'its next version, key = "{successor}"' if successor else "a version that was made after them"
        raise ConfigError(
            f"train.dataset: takedown requests remove {format_quantity(len(hits), 'pair')} of pack/{manifest.key}; name "
            f"{remedy}"
        )


def download_datasets(store: Store, datasets: list[Manifest], folder: Path) -> list[LocalDataset]:
    """Download all shards and their indexes; those of several datasets into a folder for each."""
    found: list[LocalDataset] = []
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="shards") as pool:
        for dataset in datasets:
            tars = dataset.named("", ".tar")
            names = [dataset.path(part.name) for part in (*tars, *dataset.named("", ".idx"))]
            keep_in = folder if len(datasets) == 1 else folder / dataset.key
            paths = list(pool.map(partial(store.local, keep_in=keep_in), names))
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
