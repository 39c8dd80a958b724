"""The extract stage: any sources to `pairs`, with one part for each source file.

The kinds of source are in tasks.extract.sources. tasks.extract.source_index finds the parts of files that an earlier
snapshot extracted.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dataops.digest import canonical_json, text_sha256
from dataops.errors import NothingLeft, SourceError, SourceUnreachable
from dataops.facts import ExtractedFile, ExtractFacts, FilesFacts, SourceFacts
from dataops.formatting import format_counts, format_quantity
from dataops.snapshot import Counts, Draft, Input, Record
from dataops.stages import SOURCE, SOURCE_NAMES
from dataops.store import Store
from tasks.engine.map_parts import ATTEMPTS, map_parts
from tasks.engine.scratch_folders import scratch_folder
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.extract.config import Sources, naming_table, table_path
from tasks.extract.source_index import ACCEPTED, NAME, VERSION, copy_indexed_parts, entry_name, write_entry
from tasks.extract.sources.base import FetchedFiles, Source
from tasks.extract.sources.pairs_writer import DAMAGES_LISTED, PairsWriter
from tasks.files.base import SourceFile
from tasks.growth.tables import select_new


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
        return Record(task=task.id, parts=parts, counts=counts, facts=rows.facts().as_json())


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
    return Record(task=task.id, counts=Counts(), facts=ExtractedFile(file=task.label, failed=text).as_json())


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
            done = ExtractedFile.of(Record.model_validate_json(store.read(name)))
            if done.failed is not None or done.file != task.label:
                store.delete_tree(name)
    for folder in ("failing", "failed"):
        store.delete_tree(draft.scratch(folder))


logger = logging.getLogger(__name__)


def make(work: Work[Source | Sources]) -> StageOutput:
    """Extract each file of each source, or copy its parts from an earlier snapshot."""
    config, fetched = work.config, list[FetchedFiles]()
    tasks: list[FileTask] = []
    for table in config.tables:
        path = table_path(table, config)
        with naming_table(table, path):
            fetched.append(table.fetch(work.draft, work.context))
            files = _select_new(work, table, fetched[-1].files)
            tasks += [FileTask(i, file, file.digest(), table, path) for i, file in enumerate(files, len(tasks))]
    delete_stale_records(work.draft, tasks)
    records = map_parts(extract_file, tasks, work.draft, work.context)
    parts, counts = merge_records(records)
    facts = summarise(records) | _describe_sources(config, tasks, records, fetched)
    log_problems(found := ExtractFacts(**facts))
    kept = Counter[str]()
    for task, one in zip(tasks, records, strict=True):
        kept.update({task.label: one.counts.kept} if one.parts else {})
    if empty := [file for file, rows in kept.items() if not rows]:
        logger.warning("extract: no usable row in %s", ", ".join(empty[:DAMAGES_LISTED]))
    evidence = [part for one in fetched for part in one.parts]
    return StageOutput([*parts, *evidence], counts, found)


def _describe_sources(
    config: Source | Sources, tasks: Sequence[FileTask], records: Sequence[Record], fetched: Sequence[FetchedFiles]
) -> dict[str, Any]:
    """Return the facts of each source, in their order, as `sources`; of a source without a name, those of fetching it."""
    if not all(table.name for table in config.tables):
        return dict(fetched[0].facts)
    found: list[SourceFacts] = []
    for table, files in zip(config.tables, fetched, strict=True):
        own = [record for task, record in zip(tasks, records, strict=True) if task.config is table]
        facts = {**summarise(own), **files.facts, "counts": merge_records(own)[1]}
        found.append(SourceFacts(name=table.name or "", kind=table.kind, license=table.license, **facts))
    return {"sources": found}


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Return the facts of the manifest on the files."""
    read, damages = Counter[str](), Counter[str]()
    damaged: list[tuple[str, int, str]] = []
    files = [ExtractedFile.of(record) for record in records]
    failed = [(one.file, one.failed) for one in files if one.failed is not None]
    for one in files:
        read.update(one.read)
        damages.update(one.damages)
        damaged += [(one.file, *damage) for damage in one.damaged]
    return {
        "files": len(records),
        "read": dict(sorted(read.items())),
        "damages": dict(sorted(damages.items())),
        "damaged": damaged[:DAMAGES_LISTED],
        "failed_files": failed,
    }


def log_problems(facts: FilesFacts) -> None:
    """Log the damages and the failed files that the facts of a manifest have."""
    if facts.damages:
        logger.warning("extract: damaged records: %s", format_counts(facts.damages.items()))
    for file, error in facts.failed_files:
        logger.warning("extract: %s was left out: %s", file, error)


def _select_new(work: Work[Source | Sources], table: Source, files: Sequence[SourceFile]) -> Sequence[SourceFile]:
    """Return the files of a source without those that an earlier version of the dataset has read."""
    if (base := work.config.base) is None:
        return files
    labels = [Input(stage=SOURCE, key=table.label(file.name), digest=file.digest()) for file in files]
    new = {(one.key, one.digest) for one in select_new(work.draft.store, base, labels)}
    return [file for file, label in zip(files, labels, strict=True) if (label.key, label.digest) in new]


def list_inputs(config: Source | Sources) -> list[Input]:
    """Return the inputs of all sources, in their order. Raises: ConfigError, SourceError."""
    inputs: list[Input] = []
    for table in config.tables:
        with naming_table(table, table_path(table, config)):
            inputs += [one.model_copy(update={"key": table.label(one.key)}) for one in table.inputs()]
    return inputs


def list_new_inputs(config: Source | Sources, store: Store) -> list[Input]:
    """Return the inputs of all sources that no earlier version has read; none for a dataset that does not grow.

    Raises: NothingLeft if there is none; ConfigError, SourceError.
    """
    if (base := config.base) is None:
        return []
    found = list_inputs(config)
    files = [one for one in found if one.stage == SOURCE]
    if not (new := select_new(store, base, files)):
        raise NothingLeft(
            f"extract: none of {format_quantity(len(files), 'source file')} is new since version {base.number}"
        )
    if len(new) == len(files):
        return found
    names = text_sha256(canonical_json([one.key for one in new]))
    others = [one for one in found if one.stage not in (SOURCE, SOURCE_NAMES)]
    return [*new, *others, Input(stage=SOURCE_NAMES, key=format_quantity(len(new), "new file"), digest=names)]


EXTRACT = Stage(
    name=NAME,
    version=VERSION,
    make=make,
    accepts=ACCEPTED,
    external_inputs=lambda config: [] if config.base is not None else list_inputs(config),
    config_inputs=list_new_inputs,
)
