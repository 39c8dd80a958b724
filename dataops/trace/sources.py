"""Find the source of a pair, and read what a snapshot records of its sources.

The column `source` of a pair of a named source is the name, a slash, and the file of origin.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dataops.facts import ExtractFacts, FilterFacts, PackFacts, SourceFacts
from dataops.formatting import format_quantity
from dataops.plugins import load
from dataops.snapshot import Manifest

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
    config, inputs = extract.config, sum(one.stage == "source" for one in extract.inputs)
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
