"""The findings of a dataset's nights, the pairs that they hold, and the version that lets some of them in."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ConfigDict

from dataops.errors import ConfigError, ContractError
from dataops.formats import Stored
from dataops.formatting import format_now
from dataops.snapshot import Counts, Manifest, load_manifest, read_parts, read_table
from dataops.store import Store
from flows.config import RunConfig, validate_values
from flows.next_version import add_run
from flows.records import find_version_of, read_record
from plugins.poison.config import FINDINGS, POISON
from tasks.curate.stage import CURATE
from tasks.engine.context import Context
from tasks.engine.stage import make, plan, reuse
from tasks.growth.versions import FOLDER, Version, find_newest, list_history
from tasks.pack.stage import PACK

_SHOWN = ["uid", "url", "caption"]


@dataclass(frozen=True)
class Held:
    """A finding of a night."""

    finding: str
    """Number of the version, and of the finding in its night."""
    check: str
    level: str
    subject: str
    observed: float
    expected: float
    probability: float
    evidence: str
    uids: tuple[str, ...]
    run_id: str
    curate: str
    """Key of the snapshot of curate."""

    def describe_probability(self) -> str:
        """Return the probability of a statistic."""
        return f" (expected {self.expected:,.1f}; probability {self.probability:.1g})" if self.probability else ""


class Release(Stored):
    """release-NNNNNN.json below the line: which pairs a version has let in, and why."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    uids: tuple[str, ...]
    findings: tuple[str, ...]
    reason: str
    created_at: str
    pack: str = ""
    """Key of the pack with the pairs; "" where an older release of pairmill has written this."""


def open_version(name: str, home: Path, store: str | None) -> tuple[Version, Store]:
    """Return the version that a run has made or that has this name. Raises: ConfigError."""
    if (found := find_version_of(name, home, store)) is not None:
        return found
    raise ConfigError(f"{name} is no version of a dataset that grows, nor a run that made one; see `pairmill runs`")


def load_releases(store: Store, line: str) -> list[Release]:
    """Return the releases of a line, without one that ended before it made its version."""
    names = [name for name in store.names(f"{FOLDER}/{line}") if name.rpartition("/")[2].startswith("release-")]
    releases = [Release.parse(store.read(name), f"{store.uri}/{name}") for name in sorted(names)]
    packs = {one.name: {pack.key for pack in one.packs} for one in list_history(store, find_newest(store, line))}
    return [one for one in releases if one.version in packs and (not one.pack or one.pack in packs[one.version])]


def list_findings(store: Store, version: Version, names: Sequence[str] = ()) -> list[Held]:
    """Return the findings of a version and of those that it adds to, oldest first.

    Args:
        names: only these.

    Raises: ConfigError if there is none of a name.
    """
    found: list[Held] = []
    seen = set[str]()
    for night in sorted(list_history(store, version), key=lambda one: one.number):
        if not night.run_id or night.run_id in seen or store.size(f"runs/{night.run_id}.json") is None:
            continue  # a release, or datasets that were packed again
        seen.add(night.run_id)
        key = read_record(store, f"runs/{night.run_id}.json").key_of("curate")
        manifest = load_manifest(store, "curate", key) if key else None
        if manifest is not None and manifest.named(FINDINGS):
            found += _read(store, manifest, night)
    if names and (missing := {*names} - {one.finding for one in found}):
        raise ConfigError(
            f"no finding {', '.join(sorted(missing))} in {version.name}; `pairmill quarantine` lists them"
        )
    return [one for one in found if not names or one.finding in names]


def _read(store: Store, curate: Manifest, night: Version) -> list[Held]:
    rows = pl.DataFrame(pl.from_arrow(read_table(store, curate.path(FINDINGS))))
    grouped = rows.group_by(rows.columns[:-1], maintain_order=True).agg(pl.col("pair").drop_nulls())
    return [
        Held(
            finding=f"{night.number}.{row.pop('finding')}",
            uids=tuple(row.pop("pair")),
            run_id=night.run_id,
            curate=curate.key,
            **row,
        )
        for row in grouped.to_dicts()
    ]


def list_pairs(store: Store, held: Held) -> list[dict[str, str]]:
    """Return the uid, URL and caption of the pairs of a finding; null where a takedown has erased them."""
    if (curate := load_manifest(store, "curate", held.curate)) is None:
        return []
    prefix = "part-" if held.level == "warn" else "dropped-"
    rows = pl.DataFrame(pl.from_arrow(read_parts(store, curate, prefix, _SHOWN)))
    return rows.filter(pl.col("uid").is_in([*held.uids])).sort("uid").to_dicts()


def release_pairs(
    context: Context, version: Version, findings: Sequence[str], uids: Sequence[str], reason: str
) -> list[Version]:
    """Make a version for each night of the findings, which adds their pairs to the newest one.

    Args:
        uids: only these of their pairs; none: all.

    Raises: ConfigError if a uid is in no finding; ContractError if a snapshot was deleted or the dataset has the pairs.
    """
    found = list_findings(context.store, version, findings)
    if unknown := {*uids} - {uid for one in found for uid in one.uids}:
        raise ConfigError(f"no pair {', '.join(sorted(unknown))} in {', '.join(findings)}")
    nights: dict[str, list[Held]] = defaultdict(list)
    for one in found:
        nights[one.run_id].append(one)
    made: list[Version] = []
    for run_id, held in nights.items():
        wanted = sorted({uid for one in held for uid in one.uids if not uids or uid in uids})
        if wanted:
            made.append(_release_night(context, version.line, run_id, wanted, [one.finding for one in held], reason))
    return made


def _release_night(
    context: Context, line: str, run_id: str, uids: Sequence[str], findings: Sequence[str], reason: str
) -> Version:
    store = context.store
    record, newest = read_record(store, f"runs/{run_id}.json"), find_newest(store, line)
    config = _load_config({**record.config, "store": {"uri": store.uri}}, newest)
    download = load_manifest(store, "download", record.key_of("download") or "")
    if config.line != line or download is None:
        why = (
            "its download was deleted"
            if download is None
            else "its config makes another line in this version of pairmill"
        )
        raise ContractError(f"the pairs of {run_id} cannot be released: {why}; run its sources again to fetch them")
    table = config.stage_config("curate")
    poison = getattr(table, POISON.table).model_copy(update={"released": tuple(uids)})
    planned = plan(CURATE, table.model_copy(update={POISON.table: poison}), config.seed, [download], store)
    curate = reuse(planned, context) or make(planned, context)
    if not curate.counts.kept:
        raise ContractError(
            f"the dataset has the pairs of {', '.join(findings)}, or images like theirs; nothing is released"
        )
    packing = plan(PACK, config.stage_config("pack"), config.seed, [curate, download], store)
    pack = reuse(packing, context) or make(packing, context)
    number = newest.number + 1
    found = Release(
        version=f"{line}/{number}", uids=tuple(uids), findings=tuple(findings), reason=reason,
        created_at=format_now(), pack=pack.key,
    )  # fmt: skip
    # Before the version, which so never lacks its reason. If another run makes this version, the pack is not in it.
    store.put(f"{FOLDER}/{line}/release-{number:06d}.json", found.model_dump_json(indent=2).encode())
    counted = curate.model_copy(update={"counts": Counts(input=len(uids), kept=curate.counts.kept)})
    return add_run(store, config, {"curate": counted, "pack": pack}, run_id)


def _load_config(values: dict[str, Any], newest: Version) -> RunConfig:
    """Return the config of a night, for a run that adds to the newest version."""
    grow = {**(values.get("grow") or {}), "base": newest.number, "number": newest.number + 1}
    config, problems = validate_values({**values, "grow": grow})
    if config is None:
        raise ConfigError("; ".join(problems))
    return config
