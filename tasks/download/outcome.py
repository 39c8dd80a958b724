"""Classifies the rows of a shard by img2dataset's table, writes its parts, counts its rows by host, formats failures."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from dataops.errors import ConfigError, CorruptPart, PairmillError, SourceError
from dataops.formatting import format_counts, format_quantity, format_seconds, format_share, rank_counts
from dataops.reasons import Reason
from dataops.schema import DOWNLOADED, FETCH, conform, dropped_schema
from dataops.snapshot import Counts, Draft, Manifest, Part, read_table
from dataops.store import Store
from dataops.web.urls import HOST
from tasks.download.config import DownloadConfig, may_succeed_later
from tasks.download.hooks import erased_reasons
from tasks.download.opener import Evidence

TEXT = pa.string()
DECLARED = pa.list_(pa.struct(dict.fromkeys(("signal", "detail", "where", "when"), TEXT)))
EVIDENCE = pa.schema(
    {
        "uid": TEXT,
        "key": TEXT,
        "url": TEXT,
        "fetched_at": TEXT,  # ISO 8601, UTC
        "http_status": pa.int32(),
        "final_url": TEXT,
        "content_type": TEXT,
        "etag": TEXT,
        "last_modified": TEXT,
        "server": TEXT,
        "opt_out": DECLARED,
        "permissions": DECLARED,
        "bytes": pa.int64(),
        "archive": TEXT,  # name of the archive that the image was taken from; null: a server answered
        "archive_offset": pa.int64(),  # position of its record in that archive, in bytes
        "preview": pa.binary(),  # a small JPEG, of a few images only
    }
)
_REASONS = {
    "image too small": Reason.TOO_SMALL,
    "image area too large": Reason.TOO_MANY_PIXELS,
    "aspect ratio too large": Reason.ASPECT_RATIO,
    "Image decoding error": Reason.DECODE,
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


def split_by(rows: pa.Table, matches: Callable[[str | None], bool]) -> tuple[pa.Table, pa.Table]:
    """Return the rows whose `drop_reason` matches, and the others."""
    matched = [matches(reason) for reason in rows["drop_reason"].to_pylist()]
    others = [not match for match in matched]
    return rows.filter(pa.array(matched, pa.bool_())), rows.filter(pa.array(others, pa.bool_()))


_LEFT = frozenset({"uid", "key", "shard", "status", "error_message", "drop_reason"})


def erase_rows(table: pa.Table) -> pa.Table:
    """Return the rows of a shard, with nulls in all columns but _LEFT where the drop reason erases the row.

    Args:
        table: rows with `drop_reason`, in the order of their uids.
    """
    erased, rest = split_by(table, lambda reason: reason in erased_reasons())
    if not erased.num_rows:
        return table
    blank = [
        erased[field.name] if field.name in _LEFT else pa.nulls(erased.num_rows, field.type) for field in table.schema
    ]
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
    return Reason.DECODE if status == "failed_to_resize" else Reason.OTHER


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
    lists = {name: list(map(vars, getattr(evidence, name))) for name in ("opt_out", "permissions")}
    return vars(evidence) | lists


SAMPLED = 16
"""Number of parts of which the hosts are counted for a plan."""


def estimate_longest(manifest: Manifest, store: Store) -> dict[str, int]:
    """Return the hosts with the most rows of a snapshot of pairs, estimated by a sample of its parts if it has many."""
    parts = manifest.named("part-", ".parquet")
    sampled = parts[:: -(-len(parts) // SAMPLED) or 1]
    found, rows = Counter[str](), sum(part.rows for part in sampled)
    for part in sampled:
        urls = read_table(store, manifest.path(part.name), ["url"])["url"].to_pylist()
        found.update(host[1] for host in (re.match(HOST, url or "") for url in urls) if host)
    scale = sum(part.rows for part in parts) / max(rows, 1)
    return {host: round(number * scale) for host, number in found.most_common(LISTED)}


def describe_longest(longest: Mapping[str, int], rate: float, shown: int = 3) -> str:
    """Return what the hosts with the most rows take at a rate, and what a limit would drop; empty for under a minute."""
    hosts = rank_counts(longest)
    if not rate or not hosts or hosts[0][1] < 60 * rate:
        return ""
    times = [f"{host} {format_quantity(rows, 'row')}, {format_seconds(rows / rate)}" for host, rows in hosts[:shown]]
    most, over = int(3600 * rate), sum(max(0, rows - 3600 * rate) for _, rows in hosts)
    cap = f"; max_host_rows = {most} (an hour) would drop {format_quantity(int(over), 'row')}" if over else ""
    return f"hosts with the most rows, at host_rate = {rate:g} per second: {'; '.join(times)}{cap}"


HostCounts = dict[str, dict[str, int]]
"""By host: `rows`, the number of rows that are kept or dropped, and the dropped ones by failure class."""
LISTED = 40
"""Number of hosts that a manifest lists: those with the most failed rows."""
_PER_SHARD = 1_000


def count_by_host(rows: pa.Table) -> HostCounts:
    """Count the rows of one shard by host; those with the most failed rows come first, then those with the most rows.

    Args:
        rows: with columns url and drop_reason (null for a fetched image). Rows without a URL are not counted.
    """
    pairs = zip(rows["url"].to_pylist(), rows["drop_reason"].to_pylist(), strict=True)
    matches = ((re.match(HOST, url), reason) for url, reason in pairs if url is not None)
    hosts: HostCounts = {}
    counted = Counter((found[1].lower() if found else "", reason) for found, reason in matches)
    for (name, reason), number in sorted(counted.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        counts = hosts.setdefault(name, {"rows": 0})
        counts["rows"] += number
        if reason is not None:
            counts[reason] = number
    return _keep_worst(hosts, _PER_SHARD)


def merge_hosts(shards: Iterable[HostCounts]) -> HostCounts:
    """Merge the counts of all shards, and return the LISTED hosts with the most failed rows."""
    totals: dict[str, Counter[str]] = {}
    for hosts in shards:
        for name, counts in hosts.items():
            totals.setdefault(name, Counter()).update(counts)
    return _keep_worst({name: dict(counts) for name, counts in totals.items() if count_failed(counts)}, LISTED)


def count_failed(counts: Mapping[str, int]) -> int:
    """Return the number of failed rows of a host."""
    return sum(number for reason, number in counts.items() if reason != "rows")


def _keep_worst(hosts: HostCounts, number: int) -> HostCounts:
    return dict(sorted(hosts.items(), key=lambda item: (-count_failed(item[1]), -item[1]["rows"], item[0]))[:number])


def subtract_hosts(hosts: HostCounts, retried: HostCounts) -> HostCounts:
    """Return the counts without those of the rows that are retried, and so counted again."""
    left: HostCounts = {}
    for name, counts in hosts.items():
        rest = {key: number - retried.get(name, {}).get(key, 0) for key, number in counts.items()}
        left[name] = {key: number for key, number in rest.items() if number > 0 or key == "rows"}
    return left


def explain_failure(counts: Counts, hosts: HostCounts, config: DownloadConfig) -> PairmillError:
    """Return the error of a download with less than `min_success` fetched rows.

    It is a SourceError (retryable) if the rows that may be fetched later are enough to reach `min_success`. Otherwise it
    is a ConfigError that names the permanent failure class of most rows, its share, and what to change. Both name the
    proxy, which may be the cause.
    """
    proxy = f" through download.proxy = {config.proxy}" if config.proxy else ""
    what = (
        f"download: fetched {counts.kept:,} of {format_quantity(counts.input, 'image')}"
        f"{proxy}, less than the share {config.min_success:g} of download.min_success"
    )
    permanent = {name: n for name, n in counts.dropped.items() if not may_succeed_later(name, config.retry.classes)}
    name, number = max(permanent.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if counts.input - sum(permanent.values()) >= config.min_success * counts.input:
        more = f" {_explain_class(name, number, counts)}." if 2 * number > counts.input else ""
        check = "proxy and its login" if proxy else "network"
        return SourceError(f"{what}.{more} Check the {check}, then rerun\n{format_failures(counts, hosts)}")
    cause = _explain_class(name, number, counts)
    return ConfigError(f"{what}. {cause}, then start a new run\n{format_failures(counts, hosts)}")


def _explain_class(name: str, number: int, counts: Counts) -> str:
    """Return the share of rows that failed in a permanent way, its meaning, and what to change."""
    from tasks.reports.drop_reasons import find_reason  # loads the steps of curate, which workers need not

    reason = find_reason("download", name)
    meaning = f": {reason.meaning}" if reason else "."
    remedy = reason.remedy if reason and reason.remedy.startswith("`download.") else ""
    change = f"Set {remedy}" if remedy else "Use another source, or lower download.min_success"
    share = format_share(number, counts.input)
    return f"{number:,} ({share}) failed as {name}{meaning} A retry cannot solve this. {change}"


def format_failures(counts: Counts, hosts: HostCounts) -> str:
    """Format the failure classes and the ten worst hosts of a download as lines of a message."""
    reasons = rank_counts(counts.dropped)
    lines = [f"  {reason:<40} {number:>12,}" for reason, number in reasons]
    lines += ["worst hosts, failed of all rows:"] if hosts else []
    for name, host_counts in list(hosts.items())[:10]:
        classes = Counter({reason: number for reason, number in host_counts.items() if reason != "rows"})
        why = format_counts(classes.most_common())
        lines.append(f"  {name:<40} {count_failed(host_counts):>12,} of {host_counts['rows']:,} ({why})")
    return "\n".join(lines)
