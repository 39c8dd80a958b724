"""The extract stage: whatever the source is, to `pairs`: a part for each source file.

What a file gives is remembered under `extract/by-source/<key>.json`, so that a later crawl costs only its new files. A
file that cannot be read is tried again, then counts as failed: up to `max_failed_files` are named and left out.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.digest import canonical_json, text_sha256
from dataops.errors import SourceError, StorageError
from dataops.formatting import format_counts
from dataops.snapshot import Counts, Draft, Part, Record
from dataops.store import Store
from tasks.engine.map_parts import ATTEMPTS, map_parts
from tasks.engine.scratch_folders import scratch_folder
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.extract.sources.base import Source
from tasks.extract.sources.pairs_writer import DAMAGES_LISTED, PairsWriter
from tasks.files.base import SourceFile

logger = logging.getLogger(__name__)

NAME, VERSION = "extract", 3
SOURCE_INDEX = f"{NAME}/by-source"


@dataclass(frozen=True)
class FileTask:
    """One source file to extract."""

    index: int
    file: SourceFile
    digest: str
    config: Source

    @property
    def id(self) -> str:
        return f"extract-{self.index:05d}"

    @property
    def memory(self) -> str:
        """Name in the store of what is remembered of this file."""
        identity = [NAME, VERSION, self.config.row_config(), self.digest, self.file.name]
        return f"{SOURCE_INDEX}/{text_sha256(canonical_json(identity))[:32]}.json"


class _Memory(BaseModel):
    """Where the rows of a source file lie: a snapshot of this stage, and the record of the task that made them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    record: Record


def read_indexed_key(store: Store, memory: str) -> str:
    """The key of the snapshot that a memory names; empty where it cannot be read."""
    try:
        return _Memory.model_validate_json(store.read(memory)).key
    except (ValidationError, StorageError):
        return ""


def make(work: Work[Source]) -> StageOutput:
    """Extract each source file, or copy what an earlier snapshot has of it."""
    config = work.config
    fetched = config.fetch(work.draft, work.context)
    tasks = [FileTask(i, file, file.digest(), config) for i, file in enumerate(fetched.files)]
    _forget_others(work.draft, tasks)
    records = map_parts(extract_file, tasks, work.draft, work.context)
    parts, counts = merge_records(records)
    return StageOutput([*parts, *fetched.parts], counts, _summary(records) | dict(fetched.facts))


def _summary(records: Sequence[Record]) -> dict[str, object]:
    read, damages = Counter[str](), Counter[str]()
    listed: list[list[object]] = []
    failed = [[record.facts["file"], record.facts["failed"]] for record in records if "failed" in record.facts]
    for record in records:
        read.update(record.facts.get("read", {}))
        damages.update(record.facts.get("damages", {}))
        listed += [[record.facts["file"], *damage] for damage in record.facts.get("damaged", [])]
    if damages:
        logger.warning("extract: %s", format_counts(sorted(damages.items())))
    for file, why in failed:
        logger.warning("extract: %s was left out: %s", file, why)
    return {
        "files": len(records),
        "read": dict(sorted(read.items())),
        "damages": dict(sorted(damages.items())),
        "damaged": listed[:DAMAGES_LISTED],
        "failed_files": failed,
    }


def extract_file(draft: Draft, task: FileTask) -> Record:
    """The kept and the dropped part of one source file, or a record without parts of a file that failed."""
    try:
        record = _remembered(draft, task) or _extracted(draft, task)
    except SourceError as error:
        named = task.file.name in str(error)
        return _failed(draft, task, str(error) if named else f"{task.file.name}: {error}")
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
        raise SourceError(f"{task.file.name} changed while the run read it; start the run again")
    with (
        scratch_folder("extract") as folder,
        closing(PairsWriter(NAME, task.file.name, task.config.extracted_with, folder)) as rows,
    ):
        task.config.read(task.file, rows)
        parts, counts = rows.finish(draft, task.index)
        return Record(task=task.id, parts=parts, counts=counts, facts=rows.facts())


def _failed(draft: Draft, task: FileTask, why: str) -> Record:
    """Note a failed try; after the last one, the record of the failed file, where so many may fail.

    Raises: SourceError while there are tries left, and when too many files failed.
    """
    store, note = draft.store, draft.scratch(f"failed/{task.id}")
    tries = [*(store.read(note).decode().splitlines() if store.size(note) is not None else []), why.replace("\n", " ")]
    store.put(note, "\n".join(tries).encode())
    if len(tries) < ATTEMPTS:
        raise SourceError(why)
    failed = [name for name in store.names(draft.scratch("failed")) if len(store.read(name).splitlines()) >= ATTEMPTS]
    if len(failed) > task.config.max_failed_files:
        allowed = task.config.max_failed_files
        more = f" ({len(failed)} files failed; source.max_failed_files allows {allowed})" if allowed else ""
        raise SourceError(why + more)
    return Record(task=task.id, counts=Counts(), facts={"file": task.file.name, "failed": tries[-1]})


def _forget_others(draft: Draft, tasks: Sequence[FileTask]) -> None:
    """Of an earlier try on this snapshot: let the files that failed have another, and forget what is of another file.

    Files are counted through, and which they are may change under a key that does not hold their names (an archive's list
    that was published anew).
    """
    store = draft.store
    tried = {name.rpartition("/")[2] for name in store.names(draft.scratch("")[:-1])}
    for task in tasks:
        name = draft.scratch(f"{task.id}.json")
        if f"{task.id}.json" in tried:
            facts = Record.model_validate_json(store.read(name)).facts
            if "failed" in facts or facts["file"] != task.file.name:
                store.delete_tree(name)
    store.delete_tree(draft.scratch("failed"))


EXTRACT = Stage(name=NAME, version=VERSION, make=make, external_inputs=lambda config: config.inputs())
