"""The extract stage: any source to `pairs`, with one part for each source file.

The kinds of source are in tasks.extract.sources. tasks.extract.steps extracts one file; tasks.extract.source_index finds
the parts of files that an earlier snapshot extracted.
"""

import logging
from collections import Counter
from collections.abc import Sequence

from dataops.formatting import format_counts
from dataops.snapshot import Record
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.extract.source_index import NAME, VERSION
from tasks.extract.sources.base import Source
from tasks.extract.sources.pairs_writer import DAMAGES_LISTED
from tasks.extract.steps import FileTask, delete_stale_records, extract_file

logger = logging.getLogger(__name__)


def make(work: Work[Source]) -> StageOutput:
    """Extract each source file, or copy its parts from an earlier snapshot."""
    config = work.config
    fetched = config.fetch(work.draft, work.context)
    tasks = [FileTask(i, file, file.digest(), config) for i, file in enumerate(fetched.files)]
    delete_stale_records(work.draft, tasks)
    records = map_parts(extract_file, tasks, work.draft, work.context)
    parts, counts = merge_records(records)
    return StageOutput([*parts, *fetched.parts], counts, summarise(records) | dict(fetched.facts))


def summarise(records: Sequence[Record]) -> dict[str, object]:
    """Return the facts of the manifest, and log damages and failed files."""
    read, damages = Counter[str](), Counter[str]()
    damaged: list[list[object]] = []
    failed = [[record.facts["file"], record.facts["failed"]] for record in records if "failed" in record.facts]
    for record in records:
        read.update(record.facts.get("read", {}))
        damages.update(record.facts.get("damages", {}))
        damaged += [[record.facts["file"], *damage] for damage in record.facts.get("damaged", [])]
    if damages:
        logger.warning("extract: damaged records: %s", format_counts(sorted(damages.items())))
    for file, error in failed:
        logger.warning("extract: %s was left out: %s", file, error)
    return {
        "files": len(records),
        "read": dict(sorted(read.items())),
        "damages": dict(sorted(damages.items())),
        "damaged": damaged[:DAMAGES_LISTED],
        "failed_files": failed,
    }


EXTRACT = Stage(name=NAME, version=VERSION, make=make, external_inputs=lambda config: config.inputs())
