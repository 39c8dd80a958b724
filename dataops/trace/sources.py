"""Find the source of a pair, and read what a snapshot records of its sources.

The column `source` of a pair of a named source is the name, a slash, and the file of origin.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import polars as pl

from dataops.facts import ExtractFacts, FilterFacts, PackFacts, SourceFacts
from dataops.formatting import format_quantity
from dataops.plugins import load
from dataops.snapshot import MANIFEST, Input, Manifest, load_manifest
from dataops.stages import SOURCE
from dataops.store import Store

# Number the sources of pairs by the values of their column `source` ---------------------------------------------------


def number_sources(column: pl.Series, names: Sequence[str]) -> pl.Series:
    """Return the index among `names` of the source of each row; their number for a row of no source."""
    numbers = dict(zip(names, range(len(names)), strict=True))
    found = column.str.extract(r"^([^/]+)/", 1).fill_null("")
    return found.replace_strict(numbers, default=len(names), return_dtype=pl.UInt8)


DESCRIBED = 3
"""Maximum number of sources that a sentence or a drawing describes one by one."""


def offset_unit(extracted_with: str | None) -> str:
    """Return the unit of `source_offset` of a row: `byte`, `row`, `page`; `position` for an unknown extractor."""
    extractor = (extracted_with or "").partition("/")[0]
    units = (one.offset_unit for one in load("sources").values() if one.extracted_with.partition("/")[0] == extractor)
    return next(units, "position")


def find_source(value: str | None, names: Sequence[str]) -> str | None:
    """Return the name of the source in a value of the column `source`; None if it is of none of these."""
    name, slash, _ = (value or "").partition("/")
    return name if slash and name in names else None


def key_sources_by_name(config: Mapping[str, object]) -> Mapping[str, Any]:
    """Return the config of a stage, as its manifest has it, with the tables of several sources by name."""
    tables = config.get("sources")
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        return config
    by_name = {str(table["name"]): {key: value for key, value in table.items() if key != "name"} for table in tables}
    return {**config, "sources": by_name}


def list_sources(extract: Manifest) -> list[SourceFacts]:
    """Return the sources of a snapshot of extract, in the order in which their duplicates are kept."""
    if found := ExtractFacts.of(extract).sources:
        return found
    config, inputs = extract.config, sum(one.stage == SOURCE for one in extract.inputs)
    stated = {"kind": str(config.get("kind", "unknown")), "license": config.get("license"), "counts": extract.counts}
    return [SourceFacts(**{"files": inputs, **extract.facts, **stated})]


def list_named_sources(manifests: Mapping[str, Manifest]) -> list[SourceFacts]:
    """Return the named sources of a snapshot by its ancestors' manifests; where extract's was deleted, their names only."""
    if "extract" in manifests:
        return [source for source in list_sources(manifests["extract"]) if source.name]
    counted = PackFacts.of(manifests["pack"]).sources if "pack" in manifests else {}
    return [SourceFacts(name=name) for name in counted]


def count_filtered(manifests: Mapping[str, Manifest]) -> dict[str, int]:
    """Return the number of pairs that filter kept of each named source."""
    if "filter" not in manifests:
        return {}
    counted = {name: one.kept for name, one in FilterFacts.of(manifests["filter"]).sources.items()}
    names = [source.name for source in list_named_sources(manifests)]
    return {names[0]: manifests["filter"].counts.kept} if len(names) == 1 else counted


def describe_sources(extract: Manifest) -> str:
    """Return the number of files and the kind of each source, of many sources the names of the first ones."""
    found = list_sources(extract)
    if len(found) > DESCRIBED:
        names = ", ".join(source.name for source in found[:DESCRIBED])
        files = format_quantity(sum(source.files for source in found), "source file")
        return f"{files} of {len(found)} sources: {names} and {len(found) - DESCRIBED} more"
    described = [source.describe() for source in found]
    return " and ".join([*([", ".join(described[:-1])] if described[1:] else []), described[-1]])


@dataclass(frozen=True)
class TrainingDataset:
    """A dataset of a training."""

    source: Input
    """The dataset as an input of the training."""
    manifest: Manifest | None
    """None if it is no longer in the store."""
    share: float
    """Share of the samples of an epoch that are of it, from 0 to 1."""
    is_own: bool
    """True for the dataset of the run; False for one that `[[train.dataset]]` names."""

    @property
    def key(self) -> str:
        """Key of the dataset."""
        return self.source.key


def stored_manifests(datasets: Iterable[TrainingDataset]) -> list[Manifest]:
    """Return the manifests of the datasets that are still in the store."""
    return [one.manifest for one in datasets if one.manifest is not None]


def list_training_datasets(train: Manifest, store: Store, own: Manifest | None = None) -> list[TrainingDataset]:
    """Return the datasets of a training: that of its run first, then the others in the order of its config.

    A dataset is found by its key, or by its content where that has another key by now, as lineage finds any input.

    Args:
        own: the dataset of the run at hand, which may have reused the training.

    Raises: CorruptPart if the manifest of one is invalid.
    """
    shares = list_shares(train)
    found = [_find_manifest(source, store, own) for source, _ in shares]
    if not train.config.get("dataset"):  # a dataset that grows, whose pairs are all seen equally often
        pairs = [manifest.counts.kept if manifest else 0 for manifest in found]
        shares = [(source, count / max(sum(pairs), 1)) for (source, _), count in zip(shares, pairs, strict=True)]
    return [
        TrainingDataset(source, manifest, share, number == 0)
        for number, ((source, share), manifest) in enumerate(zip(shares, found, strict=True))
    ]


def _find_manifest(source: Input, store: Store, own: Manifest | None) -> Manifest | None:
    if own is not None and own.content_digest == source.digest:
        return own
    if (found := load_manifest(store, "pack", source.key)) is not None:
        return found
    keys = [
        name.split("/")[1] for name in store.names("pack") if name.count("/") == 2 and name.endswith(f"/{MANIFEST}")
    ]
    manifests = (load_manifest(store, "pack", key) for key in keys)
    return next((one for one in manifests if one is not None and one.content_digest == source.digest), None)


def list_shares(train: Manifest) -> list[tuple[Input, float]]:
    """Return the datasets of a training as its inputs, in the same order, each with its share of the samples (0 to 1)."""
    sources = [source for source in train.inputs if source.stage == "pack"]
    weights = [Fraction(str(weight)) for weight in train.config.get("dataset") or [1] * len(sources)]
    return [(source, float(weight / sum(weights))) for source, weight in zip(sources, weights, strict=True)]
