"""Counts the rows of a download by host, per shard and over all shards, and formats its failures."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa

from dataops.errors import ConfigError, PairmillError, SourceError
from dataops.formatting import format_counts, format_quantity, format_share
from dataops.snapshot import Counts
from dataops.web.urls import HOST
from tasks.download.config import DownloadConfig, may_succeed_later
from tasks.reports.drop_reasons import find_reason

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
    is a ConfigError that names the permanent failure class of most rows, its share, and what to change.
    """
    what = (
        f"download: fetched {counts.kept:,} of {format_quantity(counts.input, 'image')}, less than the share "
        f"{config.min_success:g} of download.min_success"
    )
    permanent = {name: n for name, n in counts.dropped.items() if not may_succeed_later(name, config.retry.classes)}
    name, number = max(permanent.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if counts.input - sum(permanent.values()) >= config.min_success * counts.input:
        more = f" {_explain_class(name, number, counts)}." if 2 * number > counts.input else ""
        return SourceError(f"{what}.{more} Check the network, then rerun\n{format_failures(counts, hosts)}")
    cause = _explain_class(name, number, counts)
    return ConfigError(f"{what}. {cause}, then start a new run\n{format_failures(counts, hosts)}")


def _explain_class(name: str, number: int, counts: Counts) -> str:
    """Return the share of rows that failed in a permanent way, its meaning, and what to change."""
    reason = find_reason("download", name)
    meaning = f": {reason.meaning}" if reason else "."
    remedy = reason.remedy if reason and reason.remedy.startswith("`download.") else ""
    change = f"Set {remedy}" if remedy else "Use another source, or lower download.min_success"
    share = format_share(number, counts.input)
    return f"{number:,} ({share}) failed as {name}{meaning} A retry cannot solve this. {change}"


def format_failures(counts: Counts, hosts: HostCounts, shown: int = 10) -> str:
    """Format the failure classes and the worst hosts of a download as lines of a message."""
    reasons = sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"  {reason:<40} {number:>12,}" for reason, number in reasons]
    lines += ["worst hosts, failed of all rows:"] if hosts else []
    for name, host_counts in list(hosts.items())[:shown]:
        classes = Counter({reason: number for reason, number in host_counts.items() if reason != "rows"})
        why = format_counts(classes.most_common())
        lines.append(f"  {name:<40} {count_failed(host_counts):>12,} of {host_counts['rows']:,} ({why})")
    return "\n".join(lines)
