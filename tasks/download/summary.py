"""What is said of the hosts that a download asked: counted shard by shard, and added up; and of a download that failed."""

from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl
import pyarrow as pa

from dataops.filters import host
from dataops.snapshot import Counts

HostCounts = dict[str, dict[str, int]]
"""By host: `rows` that were settled, and of them the failed ones by class."""
LISTED = 40
"""Hosts that a manifest names: those with the most failed rows."""
_PER_SHARD = 1_000


def count_by_host(settled: pa.Table) -> HostCounts:
    """Of one shard: the hosts with the most failed rows, then those with the most rows.

    Args:
        settled: its columns url and drop_reason (null where all went well) are looked at.
    """
    rows = pl.DataFrame(
        {name: pl.Series(settled[name].to_pylist(), dtype=pl.String) for name in ("url", "drop_reason")}
    )
    rows = rows.select(host(pl.col("url")).fill_null("").alias("host"), "drop_reason")
    found: HostCounts = {}
    for name, reason, number in rows.group_by("host", "drop_reason").len().sort("host", "drop_reason").iter_rows():
        said = found.setdefault(name, {"rows": 0})
        said["rows"] += number
        if reason is not None:
            said[reason] = number
    return _keep_worst(found, _PER_SHARD)


def merge_hosts(shards: Iterable[HostCounts]) -> HostCounts:
    """The hosts of all shards together: the worst ones."""
    summed: dict[str, Counter[str]] = {}
    for hosts in shards:
        for name, said in hosts.items():
            summed.setdefault(name, Counter()).update(said)
    return _keep_worst({name: dict(said) for name, said in summed.items() if count_failed(said)}, LISTED)


def count_failed(said: Mapping[str, int]) -> int:
    """The failed rows of a host."""
    return sum(number for reason, number in said.items() if reason != "rows")


def _keep_worst(hosts: HostCounts, number: int) -> HostCounts:
    return dict(sorted(hosts.items(), key=lambda item: (-count_failed(item[1]), -item[1]["rows"], item[0]))[:number])


def subtract_hosts(hosts: HostCounts, taken: HostCounts) -> HostCounts:
    """The hosts without the rows that are counted anew."""
    left: HostCounts = {}
    for name, said in hosts.items():
        gone = taken.get(name, {})
        counted = {what: number - gone.get(what, 0) for what, number in said.items()}
        left[name] = {what: number for what, number in counted.items() if number > 0 or what == "rows"}
    return left


def format_failures(counts: Counts, hosts: HostCounts, shown: int = 10) -> str:
    """Why rows failed, and at which hosts, as lines for a message."""
    reasons = sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"  {reason:<40} {number:>12,}" for reason, number in reasons]
    lines += ["worst hosts, failed of asked:"] if hosts else []
    for name, said in list(hosts.items())[:shown]:
        why = ", ".join(
            f"{reason} {said[reason]:,}" for reason in sorted(said, key=lambda r: -said[r]) if reason != "rows"
        )
        lines.append(f"  {name:<40} {count_failed(said):>12,} of {said['rows']:,} ({why})")
    return "\n".join(lines)
