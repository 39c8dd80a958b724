"""Copy what an unfinished download of an older accepted version has fetched, so that only other rows are requested.

Another version may cut the rows into shards in another way. So whole shards are copied as they are, and the rows that no
part of them has are cut anew. What was fetched is what an accepted version gives, and the manifest names it (`imported`).
"""

import logging
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dataops.facts import ReopenedShards
from dataops.parts import Part
from dataops.snapshot import Draft, Record, find_manifest, read_table
from tasks.download.config import DownloadConfig
from tasks.download.rounds import REOPENED, later_name, merge_facts, put_later_rows, take_over
from tasks.engine.lease import find_holder, hold_lease
from tasks.engine.stage import Work, merge_records

logger = logging.getLogger(__name__)


def recover(work: Work[DownloadConfig], rows: Sequence[tuple[str, int]]) -> Record | None:
    """Copy the shards of the newest older version that has some. Its run was killed, or this one waits for its end.

    After a kill in the middle, the next run copies them again.
    """
    draft = work.draft
    for version, key in work.older.items():
        older = Draft(draft.store, draft.stage, key)
        if not _list_shards(older) and find_holder(draft.store, draft.stage, key) is None:
            continue
        with hold_lease(older, work.context, remake=True):  # nobody deletes them meanwhile
            manifest = find_manifest(draft.store, draft.stage, key)  # of a run that has ended meanwhile
            found = [take_over(older, manifest, ())[0]] if manifest else _list_shards(older)
            shards = [shard for shard in found if _copy(older, draft, shard)]
        if not shards:
            return None
        parts, counts = merge_records(shards)
        left = _put_left(draft, rows, parts)
        logger.info(
            "download %s: took over %d rows that version %d of the stage has fetched (download/%s); %d are left",
            draft.key, counts.input, version, key, sum(number for _, number in left),
        )  # fmt: skip
        facts = ReopenedShards(
            **dict(merge_facts(shards)),
            shards=1 + max(int(re.split("[-.]", part.name)[0]) for part in parts if part.name.endswith(".tar")),
            rows=left,
            imported={"version": version, "key": key, "rows": counts.input},
        )
        return draft.finish(Record(task=REOPENED, parts=parts, counts=counts, facts=facts.as_json()))
    return None


def _list_shards(older: Draft) -> list[Record]:
    return [record for task, record in older.finished().items() if task == REOPENED or task.startswith("shard-")]


def _copy(older: Draft, draft: Draft, shard: Record) -> bool:
    """Copy the parts of a shard; return False if one is damaged, so that its rows are requested again."""
    draft.check_fence()
    for part in shard.parts:
        draft.store.copy(older.path(part.name), draft.path(part.name))
        if draft.store.sha256(draft.path(part.name)) not in (None, part.sha256):
            logger.warning("%s is damaged, so the rows of %s are fetched again", older.path(part.name), shard.task)
            draft.store.delete([draft.path(one.name) for one in shard.parts])
            return False
    return True


def _put_left(draft: Draft, rows: Sequence[tuple[str, int]], parts: Sequence[Part]) -> list[tuple[str, int]]:
    """Write the rows that are in no part of fetched shards, and return the objects with them.

    All uids that were fetched are in memory: about 100 bytes each.
    """
    fetched = [part.name for part in parts if part.name.startswith(("part-", "dropped-"))]
    uids = pa.concat_tables([read_table(draft.store, draft.path(name), ["uid"]) for name in fetched])["uid"]
    is_left, left = ~pc.field("uid").isin(uids.combine_chunks()), list[tuple[str, int]]()
    for number, (source, _) in enumerate(rows):
        name, rest = f"older-{number:05d}", read_table(draft.store, source).filter(is_left)
        if put_later_rows(draft, "again", name, rest):
            left.append((draft.path(later_name("again", name)), rest.num_rows))
    return left
