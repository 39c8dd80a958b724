"""The page of a filter snapshot in the MLflow run: what was kept, what was dropped and why, what the captions speak of.

One HTML file that needs nothing else. Whatever comes from the web is escaped.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dataops.snapshot import Manifest
from tasks.filter_summary import LENGTH_STEP, LENGTH_STEPS
from tasks.page import page, text
from tasks.plots import CHANCE, GREY, INK, KEPT, png


def report_html(manifest: Manifest, queries: Sequence[str] = ()) -> str:
    """The page of a snapshot of the stage `filter`.

    Args:
        queries: the list that was balanced over, to name its most frequent ones.
    """
    counts, facts = manifest.counts, manifest.facts
    share = f"{counts.kept / counts.input:.1%}" if counts.input else "none"
    sections = [
        f"<h1>Filter {text(manifest.key)}</h1>",
        f'<p class="note">{counts.kept:,} of {counts.input:,} pairs kept ({share}).</p>',
        _rules(manifest),
        '<div class="columns"><div>',
        _ranking("Languages of kept captions", "language", facts.get("languages", {})),
        "</div><div>",
        "<h2>Length of kept captions</h2>",
        _image(_lengths(facts.get("lengths", {})), "kept captions by length in characters"),
        "</div></div>",
        _balance(facts.get("balance"), queries),
        '<div class="columns"><div>',
        _ranking("Hosts of kept images", "host", facts.get("hosts", {})),
        "</div><div>",
        _ranking("Most frequent kept captions", "caption", facts.get("captions", {})),
        "</div></div>",
    ]
    return page(f"Filter {manifest.key}", sections)


def _rules(manifest: Manifest) -> str:
    alone, examples = manifest.facts.get("alone", {}), manifest.facts.get("examples", {})
    dropped, most = manifest.counts.dropped, max(manifest.counts.dropped.values(), default=1)
    names = sorted({*dropped, *alone}, key=lambda name: (-dropped.get(name, 0), name))
    rows = [
        f"<tr><td><code>{text(name)}</code></td><td class=n>{dropped.get(name, 0):,}</td>"
        f"<td class=n>{format(alone[name], ',') if name in alone else ''}</td>"
        f'<td class=bar><div class=gone style="width:{100 * dropped.get(name, 0) / most:.1f}%"></div></td>'
        f"<td>{' · '.join(f'<q>{text(caption)}</q>' for caption in examples.get(name, []))}</td></tr>"
        for name in names
    ]
    note = "A row leaves for the first reason that holds; <i>alone</i> counts all rows that the rule holds for."
    head = "<tr><th>reason<th class=n>dropped<th class=n>alone<th><th>for example</tr>"
    return f'<h2>Why pairs were dropped</h2><p class="note">{note}</p><table>{head}{"".join(rows)}</table>'


def _ranking(title: str, what: str, counted: Mapping[str, int], shown: int = 20) -> str:
    most = max(counted.values(), default=1)
    rows = [
        f"<tr><td>{text(name) or '<i>none</i>'}</td><td class=n>{number:,}</td>"
        f'<td class=bar><div style="width:{100 * number / most:.1f}%"></div></td></tr>'
        for name, number in list(counted.items())[:shown]
    ]
    more = f"<p class=note>and {len(counted) - shown:,} more</p>" if len(counted) > shown else ""
    return f"<h2>{title}</h2><table><tr><th>{what}<th class=n>pairs<th></tr>{''.join(rows)}</table>{more}"


def _balance(facts: Mapping[str, Any] | None, queries: Sequence[str]) -> str:
    if not facts:
        return ""
    head = [f"<code>{text(queries[number])}</code>" for number in facts["head"] if number < len(queries)]
    table = [
        ("queries in the list", f"{facts['queries']:,}"),
        ("of them found in captions", f"{facts['queries_found']:,}"),
        ("matches before and after balancing", f"{facts['matches_before']:,} → {facts['matches_after']:,}"),
        ("effective number of queries", f"{facts['effective_before']:,} → {facts['effective_after']:,}"),
        ("most frequent", ", ".join(head)),
    ]
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in table if value)
    note = "The effective number is how many equally frequent queries would be as diverse (exp of the entropy)."
    curve = _image(_curve(facts["curve"]), "captions by query, from the most frequent query to the rarest")
    return f'<h2>Balance over queries</h2><p class="note">{note}</p><table>{rows}</table>{curve}'


def _lengths(lengths: Mapping[str, int]) -> Figure:
    figure = Figure(figsize=(5.2, 3), layout="constrained")
    axes = figure.add_subplot()
    steps = [int(step) for step in lengths]
    axes.bar(
        [LENGTH_STEP * step for step in steps],
        list(lengths.values()),
        width=0.85 * LENGTH_STEP,
        align="edge",
        color=KEPT,
    )
    axes.set_xlim(0, LENGTH_STEP * (min(max(steps, default=0), LENGTH_STEPS) + 1))
    axes.set_xlabel(
        f"characters (the last bar: {LENGTH_STEP * LENGTH_STEPS} and more)" if LENGTH_STEPS in steps else "characters"
    )
    _plain(axes, "pairs")
    return figure


def _curve(points: Sequence[Sequence[int]]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.add_subplot()
    found = [point for point in points if point[1]]
    axes.plot([p[0] for p in found], [p[1] for p in found], color=GREY, label="before balancing")
    kept = [point for point in found if point[2]]
    axes.plot([p[0] for p in kept], [p[2] for p in kept], color=CHANCE, lw=0, marker=".", ms=4, label="after")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("query, from the most frequent to the rarest")
    axes.legend(frameon=False)
    _plain(axes, "captions")
    return figure


def _plain(axes: Any, label: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_ylabel(label, color=GREY)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _image(figure: Figure, shows: str) -> str:
    return f'<img alt="{text(shows)}" src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}">'
