"""Functions of the extract stage: extract one source file, and account for files that cannot be read."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from dataops.errors import SourceError, SourceUnreachable
from dataops.snapshot import Counts, Draft, Record
from tasks.engine.map_parts import ATTEMPTS
from tasks.engine.scratch_folders import scratch_folder
from tasks.extract.config import naming_table
from tasks.extract.source_index import NAME, copy_indexed_parts, entry_name, write_entry
from tasks.extract.sources.base import Source
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import SourceFile


@dataclass(frozen=True)
class FileTask:
    """One source file to extract."""

    index: int
    file: SourceFile
    digest: str
    config: Source
    table: str = "source"
    """Path of the source's table in the config, for messages."""

    @property
    def label(self) -> str:
        """Value of the column `source`."""
        return self.config.label(self.file.name)

    @property
    def id(self) -> str:
        return f"extract-{self.index:05d}"


def extract_file(draft: Draft, task: FileTask) -> Record:
    """Write the kept and the dropped part of one source file, or copy them from an earlier snapshot.

    Returns: the record of the task; a file that cannot be read has a record without parts.
    Raises: SourceError if the file cannot be read and an attempt is left that may succeed, or if too many files failed.
    """
    entry = entry_name(task.config.row_config(), task.digest, task.label)
    try:
        with naming_table(task.config, task.table):
            copied = copy_indexed_parts(draft, entry, task.index)
            record = copied.model_copy(update={"task": task.id}) if copied else _extract(draft, task)
    except SourceUnreachable:  # so are all other files of the host
        raise
    except SourceError as error:
        return _record_failure(draft, task, error)
    write_entry(draft, entry, record)
    return record


def _extract(draft: Draft, task: FileTask) -> Record:
    if task.file.digest() != task.digest:
        raise SourceError(f"{task.file.name} changed while the run read it; start the run again", retryable=False)
    with (
        scratch_folder("extract") as folder,
        closing(
            PairsWriter(
                NAME,
                task.label,
                task.config.extracted_with,
                folder,
                task.file.stored_bytes(),
                license_=task.config.license,
            )
        ) as rows,
    ):
        task.config.read(task.file, rows)
        parts, counts = rows.finish(draft, task.index)
        return Record(task=task.id, parts=parts, counts=counts, facts=rows.facts())


def _record_failure(draft: Draft, task: FileTask, error: SourceError) -> Record:
    """Record a failed attempt. After the last attempt, return the record of a failed file if its failure is allowed.

    An error that no retry can solve makes the first attempt the last one.

    Raises: SourceError while attempts are left, and if more than `max_failed_files` files failed.
    """
    store, name = draft.store, draft.scratch(f"failing/{task.id}")
    text = (str(error) if task.file.name in str(error) else f"{task.file.name}: {error}").replace("\n", " ")
    text = f"{task.table}: {text}" if task.table != "source" and task.table not in text else text
    attempts = 1 + (len(store.read(name)) if store.size(name) is not None else 0)
    store.put(name, b"." * attempts)
    if error.retryable and attempts < ATTEMPTS:
        raise type(error)(text)
    table = task.table
    store.put(draft.scratch(f"failed/{table}/{task.id}"), text.encode())
    failed, allowed = len(store.names(draft.scratch(f"failed/{table}"))), task.config.max_failed_files
    if failed > allowed:
        many = f" ({failed} files failed; {table}.max_failed_files allows {allowed})" if allowed else ""
        remedy = f"; leave it out of {table}.paths, or raise {table}.max_failed_files" if error.exit_code == 2 else ""
        raise type(error)(f"{text}{many}{remedy}", retryable=False)
    return Record(task=task.id, counts=Counts(), facts={"file": task.label, "failed": text})


def delete_stale_records(draft: Draft, tasks: Sequence[FileTask]) -> None:
    """Delete the records of an earlier attempt at this snapshot that are of failed files or of other files.

    Failed files so get new attempts. A task's index may mean another file than before, because the key does not cover the
    names of all files (the list of a crawl's files may be published again).
    """
    store = draft.store
    recorded = {name.rpartition("/")[2] for name in store.names(draft.scratch("")[:-1])}
    for task in tasks:
        if f"{task.id}.json" in recorded:
            name = draft.scratch(f"{task.id}.json")
            facts = Record.model_validate_json(store.read(name)).facts
            if "failed" in facts or facts["file"] != task.label:
                store.delete_tree(name)
    for folder in ("failing", "failed"):
        store.delete_tree(draft.scratch(folder))
