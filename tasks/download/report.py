"""The page of a download snapshot in the MLflow run: why rows failed, at which hosts, and some pictures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataops.formatting import format_counts, format_share
from dataops.snapshot import Manifest, read_table
from dataops.store import Store
from tasks.download.summary import count_failed
from tasks.reports.gallery import GALLERY, gallery, some
from tasks.reports.page import page, short, text

KEPT, PER_REASON, UNSEEN, EXAMPLES = 24, 4, 2, 2
"""Pictures that are shown of those kept, and for each class of failure; rows without one for each; rows that are quoted."""
QUOTED = 120
"""Characters of an address or a message."""


def report_html(manifest: Manifest, store: Store) -> str:
    """The page of a snapshot of the stage `download`; examples come from its parts."""
    counts, facts = manifest.counts, manifest.facts
    share = format_share(counts.kept, counts.input)
    rows = sample_rows(manifest, store)
    shards, size = facts.get("shards", 0), facts.get("bytes_fetched", 0)
    in_shards = f"{size / 1e6:,.1f} MB, in {shards:,} shard{'' if shards == 1 else 's'}"
    note = f"{counts.kept:,} of {counts.input:,} pictures fetched ({share}), {in_shards}."
    sections = [
        GALLERY,
        f"<h1>Download {text(manifest.key)}</h1>",
        f'<p class="note">{note}</p>',
        _reasons(counts.dropped, rows),
        _hosts(facts.get("hosts", {})),
        gallery("Some pictures that were kept", _chosen(rows, kept=True)),
        gallery("Some that were not", _chosen(rows, kept=False)),
    ]
    return page(f"Download {manifest.key}", sections, pictures=True)


def sample_rows(
    manifest: Manifest, store: Store, prefixes: Sequence[str] = ("part-", "dropped-")
) -> list[dict[str, Any]]:
    """Rows of some shards, with `preview`; for the page's sake in the order of their uids."""
    found: list[dict[str, Any]] = []
    columns = ["uid", "url", "caption", "error_message", "original_width", "original_height"]
    for prefix in prefixes:
        more = ["drop_reason"] if prefix == "dropped-" else []
        for part in some(manifest.named(prefix, ".parquet")):
            found += read_table(store, manifest.path(part.name), [*columns, *more]).to_pylist()
    previews: dict[str, bytes] = {}
    for part in some(manifest.named("evidence-", ".parquet")):
        said = read_table(store, manifest.path(part.name), ["uid", "preview"]).to_pylist()
        previews |= {row["uid"]: row["preview"] for row in said if row["preview"]}
    return sorted(({**row, "preview": previews.get(row["uid"])} for row in found), key=lambda row: row["uid"])


def _chosen(rows: Iterable[dict[str, Any]], *, kept: bool) -> list[dict[str, Any]]:
    """The rows whose pictures are shown, those of which there is one first; of each class of failure a few."""
    taken: Counter[str] = Counter()
    chosen = []
    for row in sorted(rows, key=lambda row: row["preview"] is None):
        reason = row.get("drop_reason")
        most = UNSEEN if row["preview"] is None else KEPT if kept else PER_REASON
        if (reason is None) != kept or taken[str(reason)] >= most or (kept and row["preview"] is None):
            continue
        taken[str(reason)] += 1
        chosen.append(row)
    return sorted(chosen, key=lambda row: str(row.get("drop_reason")))


def _reasons(dropped: Mapping[str, int], rows: Sequence[dict[str, Any]]) -> str:
    most = max(dropped.values(), default=1)
    lines = []
    for reason, number in sorted(dropped.items(), key=lambda item: (-item[1], item[0])):
        quoted = [row for row in rows if row.get("drop_reason") == reason][:EXAMPLES]
        said = "<br>".join(
            f"{short(row['url'], QUOTED)} <q>{short(row['error_message'], QUOTED)}</q>" for row in quoted
        )
        bar = f'<div class=gone style="width:{100 * number / most:.1f}%"></div>'
        named = f"<td><code>{text(reason)}</code></td><td class=n>{number:,}</td>"
        lines.append(f"<tr>{named}<td class=bar>{bar}</td><td>{said}</td></tr>")
    if not lines:
        return '<h2>Why pictures were dropped</h2><p class="note">None was.</p>'
    head = "<tr><th>class<th class=n>rows<th><th>for example</tr>"
    return f"<h2>Why pictures were dropped</h2><table>{head}{''.join(lines)}</table>"


def _hosts(hosts: Mapping[str, Mapping[str, int]]) -> str:
    if not hosts:
        return ""
    lines = []
    for name, said in list(hosts.items())[:20]:
        reasons = sorted((-number, reason) for reason, number in said.items() if reason != "rows")
        why = format_counts((f"<code>{text(reason)}</code>", -number) for number, reason in reasons)
        bar = f'<div class=gone style="width:{100 * count_failed(said) / max(said["rows"], 1):.1f}%"></div>'
        lines.append(
            f"<tr><td>{text(name) or '<i>none</i>'}</td><td class=n>{count_failed(said):,}</td><td class=n>{said['rows']:,}</td>"
            f"<td class=bar>{bar}</td><td>{why}</td></tr>"
        )
    more = f"<p class=note>and {len(hosts) - 20:,} more</p>" if len(hosts) > 20 else ""
    head = "<tr><th>host<th class=n>failed<th class=n>asked<th><th>why</tr>"
    return f"<h2>Hosts with most failures</h2><table>{head}{''.join(lines)}</table>{more}"
