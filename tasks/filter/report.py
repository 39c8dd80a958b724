"""The page of a filter snapshot in the MLflow run: what was kept, what was dropped and why, what the captions speak of.

One HTML file that needs nothing else: no script, no address, so it stands in MLflow's sandboxed frame too. Whatever comes
from the web is text: escaped, with control characters spelt out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dataops.formatting import format_share
from dataops.snapshot import Manifest
from tasks.filter.summary import LENGTH_STEP, LENGTH_STEPS
from tasks.reports.page import bar, page, ranking, short, text
from tasks.reports.svg_charts import curve_svg, lengths_svg

STEPS = (
    ("language", ("language",)),
    ("boilerplate", ("boilerplate",)),
    ("seen before", ("seen",)),
    ("duplicates", ("duplicate_",)),
    ("balance", ("no_query", "balanced")),
)
"""The steps after the rules, in their order, and how their reasons begin."""


def report_html(manifest: Manifest) -> str:
    """The page of a snapshot of the stage `filter`."""
    counts, facts = manifest.counts, manifest.facts
    title = f"Filter {manifest.key}"
    sections = [
        f"<h1>{text(title)}</h1>",
        f'<p class="note">{counts.kept:,} of {counts.input:,} pairs kept ({format_share(counts.kept, counts.input)}).</p>',
        _funnel(manifest),
        _reasons(manifest),
        '<div class="columns"><div>',
        ranking("Languages of kept captions", "language", facts.get("languages", {})),
        "</div><div>",
        "<h2>Length of kept captions</h2>",
        lengths_svg(facts.get("lengths", {}), LENGTH_STEP, LENGTH_STEPS),
        "</div></div>",
        _balance(facts.get("balance"), manifest.config.get("balance") or {}),
        '<div class="columns"><div>',
        ranking("Hosts of kept images", "host", facts.get("hosts", {})),
        "</div><div>",
        ranking("Most frequent kept captions", "caption", facts.get("captions", {})),
        "</div></div>",
    ]
    return page(title, sections)


def _funnel(manifest: Manifest) -> str:
    """What is left after each step that dropped something."""
    dropped = dict.fromkeys(["rules", *(name for name, _ in STEPS)], 0)
    for reason, number in manifest.counts.dropped.items():
        dropped[next((name for name, begins in STEPS if reason.startswith(begins)), "rules")] += number
    left = came = manifest.counts.input
    rows = [_row("pairs that came in", "", came, came, came)]
    for name, number in dropped.items():
        left -= number
        rows += [_row(f"after {name}", f"−{number:,}", left, left, came)] if number else []
    head = "<tr><th>step<th class=n>dropped<th class=n>left<th></tr>"
    return f"<h2>Funnel</h2><table>{head}{''.join(rows)}</table>"


def _reasons(manifest: Manifest) -> str:
    alone, examples = manifest.facts.get("alone", {}), manifest.facts.get("examples", {})
    dropped, most = manifest.counts.dropped, max(manifest.counts.dropped.values(), default=1)
    rows = ""
    for name in sorted({*dropped, *alone}, key=lambda name: (-dropped.get(name, 0), name)):
        number, by_itself = dropped.get(name, 0), format(alone[name], ",") if name in alone else ""
        if not number and by_itself in ("", "0"):
            continue
        rows += _row(f"<code>{text(name)}</code>", f"{by_itself}", number, number, most, "gone")
        if shown := " · ".join(f"“{short(caption)}”" for caption in examples.get(name, [])):
            rows += f"<tr class=examples><td colspan=4>{shown}</td></tr>"
    if not rows:
        return ""
    note = "A pair leaves for the first reason that holds; <i>alone</i> counts all pairs that a rule holds for."
    head = "<tr><th>reason<th class=n>alone<th class=n>dropped<th></tr>"
    return f'<h2>Why pairs were dropped</h2><p class="note">{note}</p><table>{head}{rows}</table>'


def _balance(facts: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    stays = "seen in an epoch" if config.get("mode") == "online" else "kept"
    table = [
        ("pairs that came to balancing", f"{facts['pairs']:,}"),
        ("of them without a query", f"{facts['unmatched']:,} ({format_share(facts['unmatched'], facts['pairs'])}), "
         + ("kept" if config.get("keep_unmatched") else "dropped")),
        ("pairs kept", f"{facts['kept']:,} ({format_share(facts['kept'], facts['pairs'])})"),
        ("pairs seen in an epoch, in the mean", f"{facts['seen']:,} ({format_share(facts['seen'], facts['pairs'])})"),
        ("queries found in captions", f"{facts['queries_found']:,} of the list's {facts['queries']:,}"),
        ("captions a query, summed", f"{facts['matches_before']:,} → {facts['matches_after']:,}"),
        ("effective number of queries", f"{facts['effective_before']:,} → {facts['effective_after']:,}"),
    ]  # fmt: skip
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in table)
    most = f" (t = {config['max_per_query']:,})" if "max_per_query" in config else ""
    note = (
        f"A pair is {stays} where any query in its caption samples it, with probability min(1, t / captions){most}. The "
        f"effective number is how many equally frequent queries would be as diverse (exp of the entropy)."
    )
    unmatched = " · ".join(f"“{short(caption)}”" for caption in facts["unmatched_examples"])
    unmatched = f'<p class="note">Without a query, for example: {unmatched}</p>' if unmatched else ""
    curve = f"<h2>Head and tail of the queries</h2>{curve_svg(facts['curve'])}{_head(facts['head'])}"
    return f'<h2>Balance over queries</h2><p class="note">{note}</p><table>{rows}</table>{unmatched}{curve}'


def _head(head: Sequence[Sequence[Any]], shown: int = 12) -> str:
    rows = [
        f"<tr><td>{text(query)}</td><td class=n>{before:,}</td><td class=n>{after:,.0f}</td>{bar(after, head[0][1])}</tr>"
        for query, before, after in head[:shown]
    ]
    return f"<table><tr><th>most frequent<th class=n>before<th class=n>after<th></tr>{''.join(rows)}</table>"


def _row(name: str, first: str, second: int, value: float, most: float, style: str = "") -> str:
    """A row of a table with two numbers and a bar. `name` is HTML."""
    numbers = f"<td class=n>{first}</td><td class=n>{second:,}</td>"
    return f"<tr><td class=name>{name}</td>{numbers}{bar(value, most, style)}</tr>"
