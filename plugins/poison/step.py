"""The step of curate: read the rows of a night and the evidence of their download, examine them, write what was found."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.reasons import Reason
from dataops.snapshot import Draft, Manifest, fetch_table, load_manifest, read_parts
from dataops.store import Store
from plugins.poison.checks import Finding, Night
from plugins.poison.config import FINDINGS, POISON, QUARANTINED, STATE, PoisonConfig, PoisonFacts
from plugins.poison.examine import accept, examine
from plugins.poison.history import History
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import RawShard, inspected_name
from tasks.curate.stage import decide_rows, put_result
from tasks.curate.step import StepOutput
from tasks.engine.stage import Work
from tasks.growth.tables import read_table

COLUMNS = (
    "uid", "url", "caption", "language", "declared_width", "declared_height", "extra", "original_width", "original_height",
    "sha256", "drop_reason", "evaluation_overlap",
)  # fmt: skip
ANSWER = pl.Schema(dict.fromkeys(("uid", "final_url", "etag", "last_modified", "content_type", "server"), pl.String))
FOUND = pa.schema(
    [
        ("finding", pa.string()),
        ("check", pa.string()),
        ("level", pa.string()),
        ("subject", pa.string()),
        ("observed", pa.float64()),
        ("expected", pa.float64()),
        ("probability", pa.float64()),
        ("evidence", pa.string()),
        ("pair", pa.string()),  # its uid; null where a finding has no pair
    ]
)
"""Columns of FINDINGS: a row for each pair of each finding."""


def examine_night(work: Work[CurateConfig], shards: Sequence[RawShard]) -> StepOutput:
    """Examine the rows of all raw shards together, and write for each which of its rows are held."""
    config, store = _config_of(work.config), work.draft.store
    tables = [_read_rows(work.draft, shard) for shard in shards]
    answers = _read_answers(store, work.inputs["download"]).unique("uid", keep="last")
    rows = pl.concat(tables).join(answers, on="uid", how="left", maintain_order="left")
    rows = rows.with_row_index("place").sort("uid")
    features = _Thumbnails(work.draft, shards, rows["uid"].to_list())
    night = Night(rows, _read_lost(store, work.inputs["download"]), features, config, _read_history(work))
    if config.released:
        released = {*rows.with_row_index("row").filter(pl.col("uid").is_in([*config.released]))["row"]} & {*night.kept}
        held = {*night.kept} - released
        accept(night, released)
        findings = list[Finding]()
    else:
        findings = examine(night)
        held = {row for one in findings if config.level_of(one.check) in ("quarantine", "block") for row in one.rows}
    places = rows["place"].to_list()
    _put_results(work.draft, shards, {places[row] for row in held}, rows.sort("place")["drop_reason"])
    parts = [
        work.draft.put_table(FINDINGS, _tabulate(findings, rows["uid"].to_list(), config)),
        work.draft.put_table(STATE, night.history.encode(config.max_known)),
    ]
    names = [one.check for one in findings]
    blocking = [name for name in names if config.level_of(name) == "block"]
    facts = PoisonFacts(
        night=night.history.night,
        findings=dict(sorted(Counter(names).items())),
        quarantined=len(held),
        blocking=dict(sorted(Counter(blocking).items())),
    )
    return StepOutput(parts, facts)


def _config_of(config: CurateConfig) -> PoisonConfig:
    return getattr(config, POISON.table)


def _read_rows(draft: Draft, shard: RawShard) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(decide_rows(draft, shard, POISON.table).select([*COLUMNS])))


def _read_answers(store: Store, download: Manifest) -> pl.DataFrame:
    """Return what hosts answered; null in a column that the download's version of pairmill did not record."""
    names = [download.path(part.name) for part in download.named("evidence-", ".parquet")]
    found = [pl.DataFrame(pl.from_arrow(fetch_table(store, name, [*ANSWER]))) for name in names]
    return pl.concat([ANSWER.to_frame(), *found], how="diagonal")


def _read_history(work: Work[CurateConfig]) -> History:
    """Return the state of the version that the run adds to."""
    tables = [] if work.config.base is None else work.config.base.tables_of(POISON.table)
    return History.decode(read_table(work.draft.store, tables[-1])) if tables else History()


def _read_lost(store: Store, download: Manifest) -> pl.DataFrame:
    """Return what filter and download dropped since the host opted out or could not be reached."""
    above = [load_manifest(store, one.stage, one.key) for one in download.inputs if one.stage == "filter"]
    columns = ["url", "drop_reason"]
    tables = [read_parts(store, one, "dropped-", columns) for one in (download, *above) if one is not None]
    found = [pl.DataFrame(pl.from_arrow(table)) for table in tables if table.num_rows]
    empty = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    return pl.concat([empty, *found]).filter(pl.col("drop_reason").is_in([Reason.DNS, Reason.CONNECT, Reason.OPT_OUT]))


class _Thumbnails:
    """The thumbnails of rows as features, which curate has computed to compare images."""

    def __init__(self, draft: Draft, shards: Sequence[RawShard], uids: Sequence[str]):
        self._draft, self._shards, self._uids = draft, shards, uids

    @cached_property
    def _images(self) -> dict[str, bytes]:
        names = [self._draft.path(inspected_name(shard.number)) for shard in self._shards]
        tables = [fetch_table(self._draft.store, name, ["uid", "thumbnail"]) for name in names]
        return dict(
            pair for one in tables for pair in zip(*(one[key].to_pylist() for key in one.column_names), strict=True)
        )

    def __call__(self, rows: Sequence[int]) -> NDArray[np.float32]:
        images = [np.frombuffer(self._images[self._uids[row]], np.uint8) for row in rows]
        return np.stack(images).astype(np.float32)


def _put_results(draft: Draft, shards: Sequence[RawShard], held: set[int], reasons: pl.Series) -> None:
    """Write the result of each raw shard.

    Args:
        held: rows of all raw shards, in their order, as `reasons`.
    """
    start = 0
    for shard in shards:
        rows = range(start, start + shard.size)
        found = [QUARANTINED if row in held else None for row in rows if reasons[row] is None]
        put_result(draft, shard, POISON.table, pa.table({"drop_reason": pa.array(found, pa.string())}))
        start += shard.size


def _tabulate(findings: Sequence[Finding], uids: Sequence[str], config: PoisonConfig) -> pa.Table:
    found = [
        {**one._asdict(), "finding": f"{number}", "level": config.level_of(one.check), "pair": uid}
        for number, one in enumerate(findings, 1)
        for uid in ([uids[row] for row in one.rows] or [None])
    ]
    return pa.Table.from_pylist(found, FOUND)
