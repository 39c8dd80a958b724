"""Tables of an evaluation's page: what is known of one set beyond its figures, and what is owed to training images."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dataops.formatting import format_interval, format_percent
from tasks.reports.page import text


def percent(value: float | None) -> str:
    """Return a share (0 to 1) as a percentage, and an empty string for None."""
    return format_percent(value, missing="")


def interval(record: Mapping[str, Any]) -> str:
    """Return the ends of the interval in per cent without a sign, and an empty string where there is no interval."""
    return format_interval(record["low"], record["high"], sign="", missing="")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """A table of cells that are HTML already.

    Args:
        right: columns of numbers.
    """
    kinds = [' class="n"' if column in right else ' class="name"' if column == 0 else "" for column in range(len(head))]
    top = "".join(f"<th{kind}>{name}</th>" for name, kind in zip(head, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def details(result: Mapping[str, Any]) -> list[str]:
    """Groups, robustness, probe, shots and single prompts of a task, those that it has."""
    parts = []
    if groups := result.get("groups"):
        rows = [[text(g["name"]), percent(g["value"]), interval(g), f"{g['n']:,}"] for g in groups]
        parts += [
            f"<h3>By {text(groups[0]['by'])}</h3>",
            table([text(groups[0]["by"]), *FIGURE], rows, right=(1, 2, 3)),
        ]
    if shift := result.get("robustness"):
        said = f"{percent(shift['base_value'])} on <code>{text(shift['base'])}</code>, {percent(shift['value'])} here"
        parts.append(f"<p>Natural shift: {said}, a gap of {100 * shift['gap']:.2f} points.</p>")
    if probe := result.get("linear_probe"):
        said = f"{percent(probe['top1']['value'])} ({interval(probe['top1'])}) after {probe['train']:,} labelled images"
        where = text(result["probe_features"])
        parts.append(f"<p>Linear probe, features {where}: {said}, L2 strength {probe['strength']:.3g}.</p>")
    if shots := result.get("few_shot"):
        rows = [[f"{s['shots']}", percent(s["top1"]["value"]), interval(s["top1"]), f"{s['train']:,}"] for s in shots]
        head = ["shots a class", "top-1", "99.5% interval", "labelled images"]
        parts += ["<h3>Few shots</h3>", table(head, rows, right=range(4))]
    if prompts := result.get("each_template"):
        spread = 100 * (prompts[0]["value"] - prompts[-1]["value"])
        rows = [[text(p["template"]), percent(p["value"]), interval(p)] for p in (*prompts[:3], *prompts[3:][-3:])]
        parts += [f"<h3>Single prompts, best and worst ({spread:.2f} points apart)</h3>"]
        parts.append(table(["prompt", "top-1", "99.5% interval"], rows, right=(1, 2)))
    return parts


FIGURE = ("top-1", "99.5% interval", "images")


def contamination_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """All, Clean and Overlap of each set that has such an overlap; empty where nothing was looked for."""
    rows = {task: result["contamination"] for task, result in metrics.items() if "contamination" in result}
    if not rows:
        return ""
    title = "<h2>Overlap with training</h2>"
    if clean := [task for task, row in rows.items() if not row["overlap"]]:
        of = f"{len(clean)} of {len(rows)} sets"
        title += f'<p class="note">No training image matches an image of {of}: {text(", ".join(clean))}.</p>'
    if len(clean) == len(rows):
        return title
    body = [
        [
            text(task),
            text(row["metric"]),
            f"{row['overlap']:,} of {row['n']:,}",
            percent(row["all"]),
            percent(row["clean"]),
            percent(row["overlap_accuracy"]),
            interval({"low": row["overlap_low"], "high": row["overlap_high"]}),
            "" if row["inflation"] is None else f"{100 * row['inflation']:+.2f}",
            "" if row["p_value"] is None else f"{row['p_value']:.2g}",
            {None: "", False: "no", True: "yes"}[row["significant_corrected"]],
        ]
        for task, row in rows.items()
        if row["overlap"]
    ]
    head = [
        "set",
        "figure",
        "in training",
        "all",
        "clean",
        "overlap",
        "99.5% interval",
        "all − clean",
        "p",
        "p < 0.05, corrected",
    ]
    note = "Images of the set that a training image matches; a one-tailed binomial test against the clean accuracy."
    return f'{title}<p class="note">{note}</p>' + table(head, body, right=range(2, 9))
