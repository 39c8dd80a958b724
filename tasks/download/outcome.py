"""Classifies the rows of a download shard by img2dataset's table, and writes the parts of the shard."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.schema import DOWNLOADED, FETCH, conform, dropped_schema
from dataops.snapshot import Draft, Part
from tasks.download.fetch.opener import Evidence
from tasks.download.hooks import erased_reasons

EVIDENCE = pa.schema(
    [
        ("uid", pa.string()),
        ("key", pa.string()),
        ("url", pa.string()),
        ("fetched_at", pa.string()),  # ISO 8601, UTC
        ("http_status", pa.int32()),
        ("final_url", pa.string()),
        ("content_type", pa.string()),
        ("etag", pa.string()),
        ("last_modified", pa.string()),
        ("opt_out", pa.list_(pa.struct([(name, pa.string()) for name in ("signal", "detail", "where", "when")]))),
        ("bytes", pa.int64()),
        ("archive", pa.string()),  # name of the archive that the image was taken from; null: a server answered
        ("archive_offset", pa.int64()),  # position of its record in that archive, in bytes
        ("preview", pa.binary()),  # a small JPEG, of a few images only
    ]
)
_REASONS = {
    "image too small": "too_small",
    "image area too large": "too_many_pixels",
    "aspect ratio too large": "aspect_ratio",
    "Image decoding error": "decode",
}
"""Drop reasons by the message of img2dataset's resizer. Our own messages begin with the drop reason."""


def join_outcomes(rows: pa.Table, keys: Sequence[str], outcomes: pa.Table, shard: str) -> pa.Table:
    """Return the rows with the columns of FETCH and `drop_reason` (null for a fetched image), in the order of `keys`.

    Args:
        outcomes: img2dataset's table, with a row for each key; a key without a row gets the drop reason `lost`.
        shard: name of the tar.

    Raises: CorruptPart when img2dataset wrote a row that is not in the shard, or wrote one twice.
    """
    fields = [field.name for field in FETCH if field.name != "shard"]
    by_key = {row["key"]: row for row in outcomes.select(fields).to_pylist()}
    if len(by_key) != outcomes.num_rows or not by_key.keys() <= set(keys):
        raise CorruptPart(f"{shard}: img2dataset wrote {outcomes.num_rows} rows that are not those of the shard")
    lost = {"status": "failed_to_download", "error_message": "lost: img2dataset gave no row"}
    found = [{**by_key.get(key, lost), "key": key, "shard": shard} for key in keys]
    columns = {f.name: pa.array([row.get(f.name) for row in found], f.type) for f in FETCH}
    reasons = [parse_drop_reason(row["status"], row.get("error_message")) for row in found]
    columns["drop_reason"] = pa.array(reasons, pa.string())
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    return rows


_LEFT = frozenset({"uid", "key", "shard", "status", "error_message", "drop_reason"})


def erase_rows(table: pa.Table) -> pa.Table:
    """Return the rows of a shard, with nulls in all columns but _LEFT where the drop reason erases the row.

    Args:
        table: rows with `drop_reason`, in the order of their uids.
    """
    is_erased = pa.array([reason in erased_reasons() for reason in table["drop_reason"].to_pylist()], pa.bool_())
    erased = table.filter(is_erased)
    if not erased.num_rows:
        return table
    blank = [
        erased[field.name] if field.name in _LEFT else pa.nulls(erased.num_rows, field.type) for field in table.schema
    ]
    rest = table.filter(pa.array([not one for one in is_erased.to_pylist()], pa.bool_()))
    return pa.concat_tables([rest, pa.table(blank, schema=table.schema)]).sort_by("uid")


def count_erased(table: pa.Table) -> dict[str, dict[str, int]]:
    """Return the number of erased rows by drop reason, and by what follows it in `error_message`: the name of a list."""
    found: dict[str, dict[str, int]] = {}
    for reason, message in zip(table["drop_reason"].to_pylist(), table["error_message"].to_pylist(), strict=True):
        if reason in erased_reasons():
            counts, detail = found.setdefault(reason, {}), message.partition(": ")[2]
            counts[detail] = counts.get(detail, 0) + 1
    return found


def parse_drop_reason(status: str, message: str | None) -> str | None:
    """Return the failure class of a row, None for a success; an unknown message is `decode` or `other`."""
    if status == "success":
        return None
    if message in _REASONS:
        return _REASONS[message]
    prefix = re.match(r"([a-z][a-z0-9_]*): ", message or "")
    if prefix:
        return prefix[1]
    return "decode" if status == "failed_to_resize" else "other"


def put_parts(
    draft: Draft,
    name: str,
    kept: pa.Table,
    final: pa.Table,
    rows: pa.Table,
    evidence: Mapping[str, Evidence],
    previews: Mapping[str, bytes],
) -> list[Part]:
    """Write the parts `part-`, `dropped-` and `evidence-` of a shard.

    Args:
        final: the rows that are kept or dropped.
        rows: the same and those that a later round retries.
        evidence: by URL.
        previews: JPEGs of a few images, by uid.
    """
    lost = final.filter(final["drop_reason"].is_valid())
    lost = lost.append_column("drop_stage", pa.array(["download"] * lost.num_rows, pa.string()))
    none = Evidence()
    evidence_rows = [
        {"uid": uid, "key": key, "url": url, **_to_values(evidence.get(url, none)), "preview": previews.get(uid)}
        for uid, key, url in zip(*(rows[c].to_pylist() for c in ("uid", "key", "url")), strict=True)
    ]
    return [
        draft.put_table(f"part-{name}.parquet", conform(kept, DOWNLOADED, f"download {name}")),
        draft.put_table(f"dropped-{name}.parquet", conform(lost, dropped_schema(DOWNLOADED), f"download {name}")),
        draft.put_table(f"evidence-{name}.parquet", pa.Table.from_pylist(evidence_rows, EVIDENCE)),
    ]


def _to_values(evidence: Evidence) -> dict[str, Any]:
    """Return the values of the columns of EVIDENCE; `dataclasses.asdict` would take ten times as long."""
    return vars(evidence) | {"opt_out": list(map(vars, evidence.opt_out))}
