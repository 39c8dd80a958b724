"""The extract stage: any sources to `pairs`, with one part for each source file.

The kinds of source are in tasks.extract.sources. tasks.extract.steps extracts one file; tasks.extract.source_index finds
the parts of files that an earlier snapshot extracted.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dataops.formatting import format_counts
from dataops.snapshot import Input, Record
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.extract.config import Sources, naming_table, table_path
from tasks.extract.source_index import NAME, VERSION
from tasks.extract.sources.base import FetchedFiles, Source
from tasks.extract.sources.pairs_writer import DAMAGES_LISTED
from tasks.extract.steps import FileTask, delete_stale_records, extract_file

logger = logging.getLogger(__name__)


def make(work: Work[Source | Sources]) -> StageOutput:
    """Extract each file of each source, or copy its parts from an earlier snapshot."""
    config, fetched = work.config, list[FetchedFiles]()
    tasks: list[FileTask] = []
    for table in config.tables:
        path = table_path(table, config)
        with naming_table(table, path):
            fetched.append(table.fetch(work.draft, work.context))
            tasks += [
                FileTask(i, file, file.digest(), table, path) for i, file in enumerate(fetched[-1].files, len(tasks))
            ]
    delete_stale_records(work.draft, tasks)
    records = map_parts(extract_file, tasks, work.draft, work.context)
    parts, counts = merge_records(records)
    facts = summarise(records)
    log_problems(facts)
    evidence = [part for one in fetched for part in one.parts]
    return StageOutput([*parts, *evidence], counts, facts | _describe_sources(config, tasks, records, fetched))


def _describe_sources(
    config: Source | Sources, tasks: Sequence[FileTask], records: Sequence[Record], fetched: Sequence[FetchedFiles]
) -> dict[str, object]:
    """Return the facts of each source, in their order, as `sources`; of a source without a name, those of fetching it."""
    if not all(table.name for table in config.tables):
        return dict(fetched[0].facts)
    found: list[dict[str, object]] = []
    for table, files in zip(config.tables, fetched, strict=True):
        own = [record for task, record in zip(tasks, records, strict=True) if task.config is table]
        counts = merge_records(own)[1].model_dump()
        facts = {"name": table.name, "kind": table.kind, "license": table.license}
        found.append({**facts, "counts": counts, **summarise(own), **files.facts})
    return {"sources": found}


def summarise(records: Sequence[Record]) -> dict[str, object]:
    """Return the facts of the manifest on the files."""
    read, damages = Counter[str](), Counter[str]()
    damaged: list[list[object]] = []
    failed = [[record.facts["file"], record.facts["failed"]] for record in records if "failed" in record.facts]
    for record in records:
        read.update(record.facts.get("read", {}))
        damages.update(record.facts.get("damages", {}))
        damaged += [[record.facts["file"], *damage] for damage in record.facts.get("damaged", [])]
    return {
        "files": len(records),
        "read": dict(sorted(read.items())),
        "damages": dict(sorted(damages.items())),
        "damaged": damaged[:DAMAGES_LISTED],
        "failed_files": failed,
    }


def log_problems(facts: Mapping[str, Any]) -> None:
    """Log the damages and the failed files that the facts of a manifest have."""
    if facts["damages"]:
        logger.warning("extract: damaged records: %s", format_counts(facts["damages"].items()))
    for file, error in facts["failed_files"]:
        logger.warning("extract: %s was left out: %s", file, error)


def list_inputs(config: Source | Sources) -> list[Input]:
    """Return the inputs of all sources, in their order. Raises: ConfigError, SourceError."""
    inputs: list[Input] = []
    for table in config.tables:
        with naming_table(table, table_path(table, config)):
            inputs += [one.model_copy(update={"key": table.label(one.key)}) for one in table.inputs()]
    return inputs


EXTRACT = Stage(name=NAME, version=VERSION, make=make, external_inputs=list_inputs)
