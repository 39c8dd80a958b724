"""The extract stage: archives to `pairs`, a part for each source file.

What a file gives is remembered under `extract/by-source/<key>.json`, so that a later crawl costs only its new files.
"""

import glob
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataops.charsets import decode_page
from dataops.config import StageConfig
from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError, SourceError, StorageError
from dataops.markup import BadPage
from dataops.pages import Candidate, PageBounds, candidates
from dataops.schema import PAIRS, dropped, uid
from dataops.snapshot import Counts, Draft, Input, Part, Record
from dataops.store import Store
from dataops.urls import BadUrl, canonical_url
from dataops.warc import Damage, Page, read_pages
from tasks.parts import map_parts
from tasks.stage import Made, Stage, Work, gather

logger = logging.getLogger(__name__)

NAME, VERSION = "extract", 2
MEMORIES = f"{NAME}/by-source"
EXTRACTED_WITH = f"pairmill-warc/{VERSION}"
DAMAGES_LISTED = 100
"""Unreadable records that the manifest lists; all are counted."""
_BATCH = 10_000  # rows that are held as Python objects


class SourceConfig(StageConfig):
    """`[source]`: where pairs come from."""

    kind: Literal["warc"] = "warc"
    """`warc`: WARC files, gz, zstd, lz4 or plain."""
    paths: list[str] = Field(min_length=1)
    """Files or globs (`**` for any depth), relative to the current folder. A file is named in the data by its path below
    the part of the pattern that has no wildcard, so that names do not change from machine to machine."""
    max_caption_chars: int = Field(default=2000, ge=1, le=100_000)
    """Longer captions are cut at a space."""
    max_url_chars: int = Field(default=4096, ge=64, le=65_536)
    """Longer addresses are dropped."""
    max_page_bytes: int = Field(default=50_000_000, ge=1_000, le=1_000_000_000)
    """Longer pages are not read; they are counted in the manifest."""

    opt_out_directives: tuple[str, ...] = ("noai", "noimageai", "noimageindex")
    """A page whose `<meta name="robots">` has one of these forbids the use of its images: its rows are dropped as
    opted_out."""

    # The digests and names of the files decide, not the patterns that found them.
    execution_fields: ClassVar[frozenset[str]] = frozenset({"paths"})


@dataclass(frozen=True)
class SourceFile:
    """A file that the config names."""

    name: str
    """Machine-independent: what the column `source` says."""
    path: Path

    def digest(self) -> str:
        """Hex sha256 of its bytes."""
        stat = self.path.stat()
        return _digest(self.path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def source_files(config: SourceConfig) -> list[SourceFile]:
    """The files of the config in the order of their names. Raises: ConfigError with all problems."""
    files, problems = _find(config)
    if problems:
        raise ConfigError("\n".join(f"source.{line}" for line in problems))
    return files


def problems(config: SourceConfig) -> list[str]:
    """What is wrong with the files that the config names, a line each, below `source.`; empty when nothing is."""
    return _find(config)[1]


def _find(config: SourceConfig) -> tuple[list[SourceFile], list[str]]:
    found: dict[Path, str] = {}
    wrong: list[str] = []
    for pattern in config.paths:
        base = _fixed_folder(pattern)
        paths = [p for p in map(Path, sorted(glob.glob(pattern, recursive=True))) if p.is_file()]  # noqa: PTH207
        if not paths:
            what = "matches no file" if glob.has_magic(pattern) else "is no file"
            wrong.append(f"paths: {pattern!r} {what} (looked in {Path.cwd()})")
        for path in paths:
            found.setdefault(path.resolve(), path.relative_to(base).as_posix())
    names: dict[str, Path] = {}
    for path, name in sorted(found.items()):
        if name in names:
            wrong.append(
                f"paths: {names[name]} and {path} would both be named {name!r}; "
                "name them by one pattern with wildcards below their common folder"
            )
        names.setdefault(name, path)
    return [SourceFile(name, path) for name, path in sorted(names.items())], wrong


def _fixed_folder(pattern: str) -> Path:
    """The leading folders of a pattern that have no wildcard."""
    folders = Path(pattern).parts[:-1]
    fixed = next((i for i, part in enumerate(folders) if glob.has_magic(part)), len(folders))
    return Path(*folders[:fixed])


def outside(config: SourceConfig) -> list[Input]:
    """The source files, each with the sha256 of its bytes, and their names, which the column `source` repeats."""
    files = source_files(config)
    names = hashlib.sha256(canonical_json([file.name for file in files]).encode()).hexdigest()
    return [Input(stage="source", key=file.name, digest=file.digest()) for file in files] + [
        Input(stage="source_names", key=f"{len(files)} files", digest=names)
    ]


@dataclass(frozen=True)
class FileTask:
    """One source file to extract."""

    index: int
    file: SourceFile
    digest: str
    config: SourceConfig

    @property
    def id(self) -> str:
        return f"extract-{self.index:05d}"

    @property
    def memory(self) -> str:
        """Name in the store of what is remembered of this file."""
        identity = [NAME, VERSION, self.config.key_config(), self.digest, self.file.name]
        return f"{MEMORIES}/{hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:32]}.json"


class _Memory(BaseModel):
    """Where the rows of a source file lie: a snapshot of this stage, and the record of the task that made them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    record: Record


def remembered_key(store: Store, memory: str) -> str:
    """The key of the snapshot that a memory names; empty where it cannot be read."""
    try:
        return _Memory.model_validate_json(store.read(memory)).key
    except (ValidationError, StorageError):
        return ""


def make(work: Work) -> Made:
    """Extract each source file, or copy what an earlier snapshot has of it."""
    config: SourceConfig = work.config
    tasks = [FileTask(i, file, file.digest(), config) for i, file in enumerate(source_files(config))]
    records = map_parts(extract_file, tasks, work.draft, work.context)
    parts, counts = gather(records)
    return Made(parts, counts, _summary(records))


def _summary(records: list[Record]) -> dict[str, object]:
    read, damages = Counter[str](), Counter[str]()
    listed: list[list[object]] = []
    for record in records:
        read.update(record.facts["read"])
        damages.update(record.facts["damages"])
        listed += [[record.facts["file"], *damage] for damage in record.facts["damaged"]]
    if damages:
        logger.warning("extract: %s", ", ".join(f"{reason} {n:,}" for reason, n in sorted(damages.items())))
    return {
        "files": len(records),
        "read": dict(sorted(read.items())),
        "damages": dict(sorted(damages.items())),
        "damaged": listed[:DAMAGES_LISTED],
    }


def extract_file(draft: Draft, task: FileTask) -> Record:
    """The kept and the dropped part of one source file."""
    record = _remembered(draft, task) or _extracted(draft, task)
    draft.store.put(task.memory, _Memory(key=draft.key, record=record).model_dump_json().encode())
    return record


def _remembered(draft: Draft, task: FileTask) -> Record | None:
    """The task's record with its parts copied, when an earlier snapshot still has them."""
    store = draft.store
    if store.size(task.memory) is None:
        return None
    try:
        memory = _Memory.model_validate_json(store.read(task.memory))
    except ValidationError:  # emptied by a lost power supply: the file is read again
        return None
    if memory.key == draft.key:  # of an unfinished try on this very snapshot: its parts may be half written over
        return None
    if any(store.size(f"{NAME}/{memory.key}/{part.name}") != part.bytes for part in memory.record.parts):
        return None
    parts: list[Part] = []
    for part in memory.record.parts:
        name = f"{part.name.partition('-')[0]}-{task.index:05d}.parquet"
        store.copy(f"{NAME}/{memory.key}/{part.name}", draft.path(name))
        parts.append(part.model_copy(update={"name": name}))
    return memory.record.model_copy(update={"task": task.id, "parts": parts})


def _extracted(draft: Draft, task: FileTask) -> Record:
    if task.file.digest() != task.digest:
        msg = f"{task.file.path} changed while the run read it; start the run again"
        raise SourceError(msg)
    rows = _Rows(task.file.name)
    read, damages = Counter[str](), Counter[str]()
    damaged: list[list[object]] = []

    def damage(offset: int, reason: str) -> None:
        damages[reason] += 1
        if len(damaged) < DAMAGES_LISTED:
            damaged.append([offset, reason])

    bounds = PageBounds(task.config.max_caption_chars, task.config.max_url_chars)
    opt_out = frozenset(directive.lower() for directive in task.config.opt_out_directives)
    for found in read_pages(task.file.path, task.config.max_page_bytes, lambda what: read.update([what])):
        if isinstance(found, Damage):
            damage(found.offset, found.reason)
            continue
        try:
            page_url, taken, beyond = read_page(found, bounds, opt_out)
        except (BadUrl, BadPage) as bad:
            damage(found.offset, "bad_page_url" if isinstance(bad, BadUrl) else bad.reason)
            continue
        read["pages"] += 1
        if beyond:
            damage(found.offset, "too_many_images")
        for candidate in taken:
            rows.add(candidate, page_url, found.offset)
    kept, gone = rows.tables()
    parts = [
        draft.put_table(f"part-{task.index:05d}.parquet", kept),
        draft.put_table(f"dropped-{task.index:05d}.parquet", gone),
    ]
    facts = {"file": task.file.name, "read": dict(sorted(read.items())), "damages": dict(sorted(damages.items()))}
    counts = Counts(input=kept.num_rows + gone.num_rows, kept=kept.num_rows, dropped=dict(sorted(rows.reasons.items())))
    return Record(task=task.id, parts=parts, counts=counts, facts={**facts, "damaged": damaged})


def read_page(
    page: Page, bounds: PageBounds, opt_out: frozenset[str] = frozenset()
) -> tuple[str, list[Candidate], int]:
    """The page's canonical address, its candidates, and the number of images beyond the bound.

    Raises: BadUrl, BadPage when it has no usable address or cannot be read.
    """
    page_url = canonical_url(page.url, page.url, bounds.url)
    html, _ = decode_page(page.body, page.charset)
    taken, beyond = candidates(html, page_url, bounds, opt_out)
    return page_url, taken, beyond


class _Rows:
    """Rows of one source file, held as Arrow batches."""

    def __init__(self, source: str):
        self.source = source
        self.reasons: Counter[str] = Counter()
        self.held: dict[bool, list[tuple[object, ...]]] = {True: [], False: []}
        self.batches: dict[bool, list[pa.RecordBatch]] = {True: [], False: []}
        self.schemas = {True: PAIRS, False: dropped(PAIRS)}

    def add(self, found: Candidate, page_url: str, offset: int) -> None:
        keep = found.reason is None
        identity = uid(found.url, found.caption)
        row = (identity, found.url, found.caption, found.caption_source, page_url, self.source, offset, EXTRACTED_WITH)
        row += (None,) * (len(PAIRS) - len(row))
        if not keep:
            self.reasons[str(found.reason)] += 1
            row = (*row, found.reason, NAME)
        self.held[keep].append(row)
        if len(self.held[keep]) >= _BATCH:
            self._flush(keep)

    def _flush(self, keep: bool) -> None:
        schema, rows = self.schemas[keep], self.held[keep]
        columns = zip(*rows, strict=True) if rows else [() for _ in schema]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        self.batches[keep].append(pa.record_batch(arrays, schema=schema))
        self.held[keep] = []

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """The kept and the dropped rows."""
        for keep in (True, False):
            self._flush(keep)
        kept, gone = (pa.Table.from_batches(self.batches[k], self.schemas[k]).combine_chunks() for k in (True, False))
        return kept, gone


EXTRACT = Stage(name=NAME, version=VERSION, make=make, outside=outside)
