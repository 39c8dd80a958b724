"""A dataset that grows, as a line of versions: each is a list of packs, of which all but the last belong to earlier ones.

    grown/<line>/version-000012.json     the packs, the tables and the counts of version 12
    grown/<line>/urls-000009-000012-<digest>.parquet, ...

A run with `[grow]` adds to the newest version of its line: it reads only source files that no earlier version has read,
drops pairs whose URL an earlier one has asked for, and images that an earlier one has. What a version has stays. The tables
(tasks/growth/tables.py) tell a run what it needs to know of all earlier ones, so its work is in proportion to what is new.

The line is named after the config and a digest of the settings that decide its rows: with other settings a new line begins.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.digest import canonical_json, text_sha256
from dataops.errors import ContractError, CorruptPart
from dataops.formats import RELEASE, Stored
from dataops.formatting import format_quantity
from dataops.snapshot import Input, Manifest, load_manifest
from dataops.store import Store
from dataops.trace.requests import list_reports, load_report

FOLDER = "grown"
_VERSION = re.compile(rf"{FOLDER}/([^/]+)/version-(\d{{6,9}})\.json")


class Table(BaseModel):
    """Rows of consecutive versions, as one object of the store."""

    model_config = ConfigDict(frozen=True)

    kind: str
    first: int
    last: int
    name: str
    rows: int
    bytes: int
    sha256: str


class Added(BaseModel):
    """A pack that a version added."""

    model_config = ConfigDict(frozen=True)

    key: str
    digest: str
    pairs: int
    bytes: int = 0
    """Size of its shards; 0 where an older release has added it."""

    @classmethod
    def of(cls, pack: Manifest) -> Self:
        """Return the entry of a snapshot of pack."""
        size = sum(shard.bytes for shard in pack.named("", ".tar"))
        return cls(key=pack.key, digest=pack.content_digest, pairs=pack.counts.kept, bytes=size)


class Version(Stored):
    """version-NNNNNN.json. Number 0, which no object has, is the beginning of a line."""

    model_config = ConfigDict(frozen=True, extra="allow")

    line: str
    number: int = 0
    packs: tuple[Added, ...] = ()
    tables: tuple[Table, ...] = ()
    new: int = 0
    """Pairs that this version added."""
    repeated: int = 0
    """Pairs of this version that an earlier one had, by URL or image."""
    dropped: int = 0
    """Pairs that its run dropped for other reasons."""
    base: int | None = None
    """Number of the version that it adds to; None where an older release has made it."""
    run_id: str = ""
    created_at: str = ""
    release: str = RELEASE

    @property
    def name(self) -> str:
        """Name by which a run records it, `line/number`; see `find_version`."""
        return f"{self.line}/{self.number}"

    @property
    def pairs(self) -> int:
        """Pairs of all packs."""
        return sum(pack.pairs for pack in self.packs)

    @property
    def figures(self) -> dict[str, int]:
        """What the run found: pairs that are new, repeated and dropped, and the total with those of earlier versions."""
        return {"new": self.new, "repeated": self.repeated, "dropped": self.dropped, "total": self.pairs}

    def describe(self) -> str:
        """Return a line with the figures."""
        found = f"{self.new:,} new, {self.repeated:,} repeated, {self.dropped:,} dropped, {self.pairs:,} in all"
        return f"Version {self.number} of {self.line}: {found} ({format_quantity(len(self.packs), 'pack')})"

    @property
    def digest(self) -> str:
        """Digest of all that a run reads of this version."""
        content = [[pack.digest for pack in self.packs], [[one.kind, one.sha256] for one in self.tables]]
        return text_sha256(canonical_json(content))

    def as_input(self) -> Input:
        """Return this version as an input of a stage."""
        return Input(stage=FOLDER, key=self.name, digest=self.digest)

    def tables_of(self, kind: str) -> list[Table]:
        """Return the tables of a kind, oldest first."""
        return sorted((table for table in self.tables if table.kind == kind), key=lambda table: table.first)


def name_line(name: str, settings: Sequence[Any]) -> str:
    """Return the line of a config: its name, and a digest of the settings that decide its rows."""
    return f"{name}-{text_sha256(canonical_json(list(settings)))[:12]}"


def find_newest(store: Store, line: str) -> Version:
    """Return the newest version of a line. Raises: CorruptPart."""
    return load_version(store, line, max((number for _, number in list_numbers(store, f"{FOLDER}/{line}")), default=0))


def list_newest(store: Store) -> list[Version]:
    """Return the newest version of each line of a store. Raises: CorruptPart."""
    newest = dict(sorted(list_numbers(store, FOLDER)))  # the last number of a line stays
    return [load_version(store, line, number) for line, number in newest.items()]


def load_version(store: Store, line: str, number: int) -> Version:
    """Return a version of a line; 0 is its beginning. Raises: CorruptPart if it is missing or damaged; NewerFormat."""
    if not number:
        return Version(line=line)
    name = _object_name(line, number)
    if (data := store.find(name)) is None:
        raise CorruptPart(f"{store.uri}/{name} is missing; restore it, or run the config with `--set grow.base=0`")
    try:
        found = Version.parse(data, f"{store.uri}/{name}")
    except ValidationError as error:
        raise CorruptPart(f"{store.uri}/{name} is damaged; restore it from a backup") from error
    if (found.line, found.number) != (line, number):
        raise CorruptPart(f"{store.uri}/{name} is version {found.number} of {found.line}; restore it from a backup")
    return found


def find_version(store: Store, name: str) -> Version:
    """Return a version by its name. Raises: as load_version."""
    line, _, number = name.rpartition("/")
    return load_version(store, line, int(number))


def list_history(store: Store, version: Version) -> Iterator[Version]:
    """Yield a version and those that it adds to, newest first."""
    while version.number:
        yield version
        version = load_version(store, version.line, version.number - 1 if version.base is None else version.base)


def has_version(store: Store, name: str) -> bool:
    """Return whether a store has a version of this name."""
    line, _, number = name.rpartition("/")
    return store.size(_object_name(line, int(number))) is not None


def create_version(store: Store, version: Version) -> Version:
    """Write a version, or return it if this run has written it before.

    Raises: ContractError if another run has made the version of this number.
    """
    name = _object_name(version.line, version.number)
    if store.create(name, version.model_dump_json(indent=2).encode()):
        return version
    found = load_version(store, version.line, version.number)
    if found.digest == version.digest:
        return found
    raise ContractError(
        f"{found.run_id} has made version {found.number} of {found.line} meanwhile; start a new run of the config: it adds "
        "to that version, and fetches no image again that this run has fetched, if the same rows are new to it"
    )


def find_packs(store: Store, version: Version) -> list[Manifest]:
    """Return the datasets of a version, each as the newest version that takedowns have made of it.

    Raises: ContractError if one is not in the store.
    """
    followers: dict[str, str] = {}
    for entry in list_reports(store) if version.packs else ():
        followers |= {old: new for old, new in load_report(store, entry.name).versions.items() if new}
    found: list[Manifest] = []
    for pack in version.packs:
        key, seen = pack.key, {pack.key}
        while (following := followers.get(key)) is not None and following not in seen:
            key = following
            seen.add(key)
        if (manifest := load_manifest(store, "pack", key)) is None:
            raise ContractError(
                f"pack/{key}, which version {version.number} of {version.line} has, is not in {store.uri}; restore it, or "
                "run the config with `--set grow.base=0`, which makes the dataset again"
            )
        found.append(manifest)
    return found


def _object_name(line: str, number: int) -> str:
    return f"{FOLDER}/{line}/version-{number:06d}.json"


def list_numbers(store: Store, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the line and the number of each version below a prefix; other objects there are not ours, or tables."""
    for name in store.names(prefix):
        if found := _VERSION.fullmatch(name):
            yield found[1], int(found[2])
