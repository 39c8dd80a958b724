"""Tables of an evaluation's page: details of one set, its worst classes, and the overlap with training images."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataops.formatting import format_interval, format_percent
from tasks.reports.section import Section

WORST = 10
"""Number of the worst classes or words that are shown."""
LISTED = 4
"""Number of classes that are listed beside a class."""
FIGURE = ("top-1", "99.5% interval", "images")


def percent(value: float | None) -> str:
    """Return a share (0 to 1) as a percentage, and an empty string for None."""
    return format_percent(value, missing="")


def interval(record: Mapping[str, Any]) -> str:
    """Return the ends of the interval in per cent without a sign, and an empty string where there is no interval."""
    return format_interval(record["low"], record["high"], sign="", missing="")


def describe_details(result: Mapping[str, Any]) -> list[Section]:
    """Return groups, robustness, probe, shots and single prompts of a task, those that it has."""
    sections = []
    if groups := result.get("groups"):
        rows = [[g["name"], percent(g["value"]), interval(g), f"{g['n']:,}"] for g in groups]
        attribute = groups[0]["by"]
        sections.append(Section(f"By {attribute}", (), [attribute, *FIGURE], rows, numbers=(1, 2, 3)))
    if shift := result.get("robustness"):
        values = f"{percent(shift['base_value'])} on `{shift['base']}`, {percent(shift['value'])} here"
        sections.append(Section("", [f"Natural shift: {values}, a gap of {100 * shift['gap']:.2f} points."]))
    if probe := result.get("linear_probe"):
        top1 = f"{percent(probe['top1']['value'])} ({interval(probe['top1'])})"
        images = f"after {probe['train']:,} labelled images, L2 strength {probe['strength']:.3g}"
        sections.append(Section("", [f"Linear probe, features {result['probe_features']}: {top1} {images}."]))
    if shots := result.get("few_shot"):
        rows = [[f"{s['shots']}", percent(s["top1"]["value"]), interval(s["top1"]), f"{s['train']:,}"] for s in shots]
        columns = ["shots a class", "top-1", "99.5% interval", "labelled images"]
        sections.append(Section("Few shots", (), columns, rows, numbers=range(4)))
    if prompts := result.get("each_template"):
        spread = 100 * (prompts[0]["value"] - prompts[-1]["value"])
        title = f"Single prompts, best and worst ({spread:.2f} points apart)"
        rows = [[p["template"], percent(p["value"]), interval(p)] for p in (*prompts[:3], *prompts[3:][-3:])]
        sections.append(Section(title, (), ["prompt", "top-1", "99.5% interval"], rows, numbers=(1, 2)))
    return sections


def find_confusions(rows: Iterable[Mapping[str, Any]]) -> list[Section]:
    """Return the classes with the lowest accuracy, and those with the most false positives.

    Where every class has one image, each accuracy is 0 or 1. The first table is then of the images whose class has the
    worst rank.
    """
    rows = list(rows)
    images = Counter(row["label_name"] for row in rows)
    errors = [row for row in rows if row["status"] == "ok" and row["rank"] != 1]
    first = _find_lowest_accuracy(rows, images) if max(images.values(), default=0) > 1 else _find_worst_ranks(errors)
    return [section for section in (first, _find_false_positives(rows, errors)) if section.rows]


def _find_lowest_accuracy(rows: Iterable[Mapping[str, Any]], images: Mapping[str, int]) -> Section:
    right, predicted = Counter[str](), {name: Counter[str]() for name in images}
    for row in rows:
        if row["rank"] == 1:
            right[row["label_name"]] += 1
        elif row["status"] == "ok":
            predicted[row["label_name"]][row["predicted_name"]] += 1
    # at the same accuracy the larger class first: it affects more images
    worst = sorted(images, key=lambda name: (right[name] / images[name], -images[name], name))[:WORST]
    body = [
        [name, percent(right[name] / images[name]), f"{images[name]:,}", _format_classes(predicted[name])]
        for name in worst
        if right[name] < images[name]
    ]
    columns = ["class", "accuracy", "images", "predicted as"]
    return Section("Classes with the lowest accuracy", (), columns, body, numbers=(1, 2))


def _find_worst_ranks(errors: Iterable[Mapping[str, Any]]) -> Section:
    worst = sorted(errors, key=lambda row: (-row["rank"], row["label_name"]))[:WORST]
    body = [[row["label_name"], f"{row['rank']:,}", row["predicted_name"]] for row in worst]
    title = "Classes with the worst rank (each has one image)"
    return Section(title, (), ["class", "rank", "predicted as"], body, numbers=(1,))


def _find_false_positives(rows: Iterable[Mapping[str, Any]], errors: Iterable[Mapping[str, Any]]) -> Section:
    """Return the classes that are predicted most often for images of other classes."""
    actual: dict[str, Counter[str]] = {}
    for row in errors:
        actual.setdefault(row["predicted_name"], Counter())[row["label_name"]] += 1
    right = Counter(row["label_name"] for row in rows if row["rank"] == 1)
    wrong = {name: counts.total() for name, counts in actual.items()}
    worst = sorted(wrong, key=lambda name: (-wrong[name], name))[:WORST]
    body = [
        [name, f"{wrong[name]:,}", percent(right[name] / (right[name] + wrong[name])), _format_classes(actual[name])]
        for name in worst
    ]
    columns = ["predicted class", "false positives", "precision", "classes of these images"]
    return Section("Classes with the most false positives", (), columns, body, numbers=(1, 2))


def _format_classes(counts: Counter[str]) -> str:
    """Return the most frequent classes, with the number of images where there are several of one."""
    names = [f"{name} ({count:,})" if count > 1 else name for name, count in counts.most_common(LISTED)]
    return ", ".join(names) + (", …" if len(counts) > LISTED else "")


def find_worst_words(rows: Iterable[Mapping[str, Any]]) -> Section:
    """Return the cues of an association task with the lowest Jaccard index."""
    worst = sorted(rows, key=lambda row: row["jaccard"])[:WORST]
    body = [[row["cue"], percent(row["jaccard"]), ", ".join(row["associations"])] for row in worst]
    return Section("Words with the lowest score", (), ["word", "Jaccard index", "its images"], body, numbers=(1,))


def find_worst_classes(precisions: Sequence[float], names: Sequence[str]) -> Section:
    """Return the classes of a multi-label task with the lowest average precision."""
    worst = sorted(zip(precisions, names, strict=True))[:WORST]
    body = [[name, percent(value)] for value, name in worst]
    return Section("Classes with the lowest precision", (), ["class", "average precision"], body, numbers=(1,))


def describe_overlap(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the rows of the sets that share images with training; None where nobody searched for any.

    Returns: sets (how many were searched), clean (names of those without such an image), rows (of the others).
    """
    found = {task: result["contamination"] for task, result in metrics.items() if "contamination" in result}
    if not found:
        return None
    rows = [
        [
            task,
            row["metric"],
            f"{row['overlap']:,} of {row['n']:,}",
            percent(row["all"]),
            percent(row["clean"]),
            percent(row["overlap_accuracy"]),
            interval({"low": row["overlap_low"], "high": row["overlap_high"]}),
            "" if row["inflation"] is None else f"{100 * row['inflation']:+.2f}",
            "" if row["p_value"] is None else f"{row['p_value']:.2g}",
            {None: "", False: "no", True: "yes"}[row["significant_corrected"]],
        ]
        for task, row in found.items()
        if row["overlap"]
    ]
    return {"sets": len(found), "clean": [task for task, row in found.items() if not row["overlap"]], "rows": rows}
