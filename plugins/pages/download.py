"""The page of a download snapshot: why rows failed, at which hosts, and some images."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dataops.facts import DownloadFacts
from dataops.formatting import rank_counts
from dataops.snapshot import Manifest
from dataops.store import Store
from tasks.download.outcome import count_failed, describe_longest
from tasks.pack.card_samples import read_samples
from tasks.reports.page import gallery_rows, render

KEPT, PER_REASON = 24, 4
"""Number of images that are shown of those kept, and for each drop reason."""
WITHOUT_IMAGE = 2
"""Number of rows without an image that are shown for each drop reason."""
QUOTED = 2
"""Number of rows of each drop reason whose URL and error message are quoted."""


def render_download(manifest: Manifest, store: Store) -> str:
    """Return the page of a snapshot of the stage `download`, with examples from its parts."""
    facts, rows = DownloadFacts.of(manifest), read_samples(manifest, store)
    return render(
        "download.html",
        title=f"Download {manifest.key}",
        counts=manifest.counts,
        bytes=facts.bytes_fetched,
        shards=facts.shards,
        reasons=_reasons(manifest.counts.dropped, rows),
        hosts=_hosts(facts.hosts),
        longest=describe_longest(facts.longest, facts.host_rate, shown=10),
        kept=gallery_rows(_choose(rows, kept=True)),
        dropped=gallery_rows(_choose(rows, kept=False)),
    )


def _choose(rows: Iterable[dict[str, object]], *, kept: bool) -> list[dict[str, object]]:
    """Return the rows that the gallery shows: a few of each drop reason, those with an image first."""
    taken: Counter[str] = Counter()
    chosen = []
    for row in sorted(rows, key=lambda row: row["preview"] is None):
        reason = row.get("drop_reason")
        most = WITHOUT_IMAGE if row["preview"] is None else KEPT if kept else PER_REASON
        if (reason is None) != kept or taken[str(reason)] >= most or (kept and row["preview"] is None):
            continue
        taken[str(reason)] += 1
        chosen.append(row)
    return sorted(chosen, key=lambda row: str(row.get("drop_reason")))


def _reasons(dropped: Mapping[str, int], rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return the drop reasons, most frequent first, with the first rows of each."""
    ranked = rank_counts(dropped)
    examples = {name: [row for row in rows if row.get("drop_reason") == name][:QUOTED] for name in dropped}
    return [{"name": name, "dropped": count, "examples": examples[name]} for name, count in ranked]


def _hosts(hosts: Mapping[str, Mapping[str, int]]) -> list[dict[str, object]]:
    """Return each host with the number of its rows, of those that failed, and why, most frequent reason first."""
    found = []
    for name, counts in hosts.items():
        reasons = rank_counts({reason: n for reason, n in counts.items() if reason != "rows"})
        found.append({"name": name, "rows": counts["rows"], "failed": count_failed(counts), "reasons": reasons})
    return found
