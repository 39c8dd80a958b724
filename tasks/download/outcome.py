"""What became of the rows of a download shard: img2dataset's account of them, checked, classed and written."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.schema import DOWNLOADED, FETCH, conform, dropped_schema
from dataops.snapshot import Draft, Part
from tasks.download.fetch.opener import Evidence

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
        ("preview", pa.binary()),  # a small JPEG of a few of the pictures
    ]
)
_REASONS = {
    "image too small": "too_small",
    "image area too large": "too_many_pixels",
    "aspect ratio too large": "aspect_ratio",
    "Image decoding error": "decode",
}
"""Reasons by what img2dataset's resizer says; our own messages start with theirs."""


def join_outcomes(rows: pa.Table, keys: Sequence[str], written: pa.Table, shard: str) -> pa.Table:
    """The rows with the columns of FETCH and `drop_reason` (null where all went well), in the order of their keys.

    Args:
        written: img2dataset's table: a row for each key, but for those that it lost.
        shard: name of the tar.

    Raises: CorruptPart when img2dataset wrote a row that was not asked for, or one twice.
    """
    fields = [field.name for field in FETCH if field.name != "shard"]
    by_key = {row["key"]: row for row in written.select(fields).to_pylist()}
    if len(by_key) != written.num_rows or not by_key.keys() <= set(keys):
        raise CorruptPart(f"{shard}: img2dataset wrote {written.num_rows} rows that are not those of the shard")
    lost = {"status": "failed_to_download", "error_message": "lost: img2dataset gave no row"}
    found = [{**by_key.get(key, lost), "key": key, "shard": shard} for key in keys]
    columns = {f.name: pa.array([row.get(f.name) for row in found], f.type) for f in FETCH}
    columns["drop_reason"] = pa.array(
        [parse_drop_reason(r["status"], r.get("error_message")) for r in found], pa.string()
    )
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    return rows


def parse_drop_reason(status: str, message: str | None) -> str | None:
    """The stable class of a failure; None for a success. What nobody foresaw is `decode` or `other`."""
    if status == "success":
        return None
    if message in _REASONS:
        return _REASONS[message]
    named = re.match(r"([a-z][a-z0-9_]*): ", message or "")
    if named:
        return named[1]
    return "decode" if status == "failed_to_resize" else "other"


def put_parts(
    draft: Draft,
    name: str,
    kept: pa.Table,
    settled: pa.Table,
    asked: pa.Table,
    said: Mapping[str, Evidence],
    previews: Mapping[str, bytes],
) -> list[Part]:
    """Write the parts `part-`, `dropped-` and `evidence-` of a shard.

    Args:
        settled: the rows that are kept or dropped for good.
        asked: these, and those that a later round will try again.
        previews: of a few of their pictures, by uid.
    """
    lost = settled.filter(settled["drop_reason"].is_valid())
    lost = lost.append_column("drop_stage", pa.array(["download"] * lost.num_rows, pa.string()))
    none = Evidence()
    witnessed = [
        {"uid": uid, "key": key, "url": url, **asdict(said.get(url, none)), "preview": previews.get(uid)}
        for uid, key, url in zip(*(asked[c].to_pylist() for c in ("uid", "key", "url")), strict=True)
    ]
    return [
        draft.put_table(f"part-{name}.parquet", conform(kept, DOWNLOADED, f"download {name}")),
        draft.put_table(f"dropped-{name}.parquet", conform(lost, dropped_schema(DOWNLOADED), f"download {name}")),
        draft.put_table(f"evidence-{name}.parquet", pa.Table.from_pylist(witnessed, EVIDENCE)),
    ]
