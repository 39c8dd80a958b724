"""The page of an evaluation: every metric beside chance and another model, confused classes, example images."""

import base64
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

import pyarrow as pa
from PIL import Image

from dataops.formatting import format_interval, format_percent, format_quantity
from dataops.images.decode import PREVIEW_SIDE, ImageRefused, decode, make_preview, read_header
from dataops.plugins import load
from tasks.evaluate.run_suite import Evaluation, average_metrics
from tasks.reports.page import Section, render
from training.evaluation.intervals import flatten_metrics
from training.evaluation.sets import EvalSet
from training.evaluation.suite import Suite
from training.evaluation.task import Task

EXAMPLES = 8
"""Number of images in each gallery."""
CAPTION_CHARS = 90


def report_html(
    suite: Suite,
    evaluation: Evaluation,
    against: Evaluation | None = None,
    compared: Mapping[str, Mapping[str, object]] | None = None,
) -> str:
    """Return the page.

    Args:
        suite: its images are on this machine.
        evaluation: the results.
        against: another model's results, shown beside these.
        compared: comparison by task and metric, as in training/evaluation/comparison.py.
    """
    rows = flatten_metrics(evaluation.metrics)
    others = {row["key"]: row["value"] for row in flatten_metrics(against.metrics)} if against else {}
    tables = evaluation.predictions()
    return render(
        "evaluation.html",
        title=f"{evaluation.model} on {suite.name}",
        side=PREVIEW_SIDE,
        average=average_metrics(evaluation.metrics, suite),
        against=against.model if against else None,
        rows=[
            {
                **row,
                "other": others.get(row["key"]),
                "comparison": (compared or {}).get(row["task"], {}).get(row["metric"]),
            }
            for row in rows
        ],
        overlap=describe_overlap(evaluation.metrics),
        tasks=[_describe_task(task, evaluation.metrics[task.name], tables[task.name]) for task in suite.tasks],
    )


def _describe_task(task: Task, result: Mapping[str, Any], predictions: pa.Table) -> dict[str, object]:
    """Return name, summary, sections and galleries of a task."""
    rows, sections, galleries = predictions.to_pylist(), describe_details(result), []
    if task.kind == "classification":
        sections += find_confusions(rows)
        galleries = _choose_examples(task, rows)
    elif task.kind == "retrieval":
        galleries = [_choose_late_captions(task, rows)]
    elif (describe := load("measures")[task.kind].page) is not None:
        sections.append(resolve_name(describe)(task, result, rows))
    return {"name": task.name, "summary": _summarise(task, result), "sections": sections, "galleries": galleries}


def _summarise(task: Task, result: Mapping[str, Any]) -> str:
    """Return the numbers of images, classes and captions as a sentence, and the suite's description of the task."""
    summary = f"{result['n']:,} {'words' if result['kind'] == 'association' else 'images'}"
    if "expected_n" in result:
        summary += f" (the suite expects {result['expected_n']:,})"
    if "classes" in result:
        summary += f", {format_quantity(result['classes'], 'class', 'classes')}"
        summary += f", {format_quantity(result['templates'], 'prompt')} per class"
    if "captions" in result:
        summary += f", {format_quantity(result['captions'], 'caption')}"
    if result["unreadable"]:
        summary += f"; {result['unreadable']:,} could not be decoded and count as wrong"
    return f"{summary}. {task.description}".strip()


def _choose_examples(task: Task, rows: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """Return a gallery of correct predictions from the whole set, and one of the errors with the highest scores."""
    answered = [row for row in rows if row["status"] == "ok"]
    correct = choose_evenly([row for row in answered if row["rank"] == 1], EXAMPLES)
    errors = sorted((row for row in answered if row["rank"] != 1), key=lambda row: (-row["scores"][0], row["key"]))
    errors = errors[:EXAMPLES]
    images = make_thumbnails(task.data, {row["key"] for row in (*correct, *errors)})
    galleries = {
        "Correct predictions": [_figure(images, row, row["label_name"]) for row in correct],
        "Errors with the highest scores (class, and predicted class)": [
            _figure(images, row, row["label_name"], row["predicted_name"]) for row in errors
        ],
    }
    return [{"title": title, "figures": figures} for title, figures in galleries.items() if figures]


def _choose_late_captions(task: Task, rows: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Return a gallery of the images whose own caption has the last rank among all captions."""
    answered = [row for row in rows if row["status"] == "ok"]
    worst = sorted(answered, key=lambda row: (-row["image_to_text_rank"], row["key"]))[:EXAMPLES]
    images = make_thumbnails(task.data, {row["key"] for row in worst})
    figures = [
        _figure(images, row, row["captions"][0][:CAPTION_CHARS], f"rank {row['image_to_text_rank']:,}") for row in worst
    ]
    return {"title": "Images whose captions have the last ranks", "figures": figures}


def _figure(
    images: Mapping[str, str], row: Mapping[str, Any], label: str, miss: str | None = None
) -> dict[str, object]:
    return {"key": row["key"], "preview": images.get(row["key"]), "label": label, "miss": miss}


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
    for name, protocol in load("protocols").items():
        if result.get(name):
            sections.append(resolve_name(protocol.page)(result))
    if prompts := result.get("each_template"):
        spread = 100 * (prompts[0]["value"] - prompts[-1]["value"])
        title = f"Single prompts, best and worst ({spread:.2f} points apart)"
        rows = [[p["template"], percent(p["value"]), interval(p)] for p in (*prompts[:3], *prompts[3:][-3:])]
        sections.append(Section(title, (), ["prompt", "top-1", "99.5% interval"], rows, numbers=(1, 2)))
    return sections


def find_confusions(rows: Iterable[Mapping[str, Any]]) -> list[Section]:
    """Return the classes with the lowest accuracy, and those with the most false positives.

    Where every class has one image, each accuracy is 0 or 1. The first table is then of the images
    whose class has the worst rank.
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


def describe_overlap(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, object] | None:
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


MAX_PIXELS = 1 << 26


def make_thumbnails(data: EvalSet, keys: Collection[str]) -> dict[str, str]:
    """Return a JPEG in base64 for each of the samples that can be decoded; reads the set up to the last of them."""
    wanted, found = set(keys), {}
    for sample in data.samples() if wanted else ():
        if sample.key in wanted:
            wanted.discard(sample.key)
            found[sample.key] = _make_thumbnail(sample.image)
            if not wanted:
                break
    return {key: thumbnail for key, thumbnail in found.items() if thumbnail}


def _make_thumbnail(encoded: bytes) -> str:
    try:
        read_header(encoded, MAX_PIXELS)
        image = decode(encoded)
    except ImageRefused:
        return ""
    if max(image.size) < PREVIEW_SIDE:  # a scan of 8 pixels is shown with its pixels
        scale = PREVIEW_SIDE // max(image.size)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return base64.b64encode(make_preview(image)).decode()


def choose_evenly(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` of the rows, evenly spread over their order."""
    if len(rows) <= limit:
        return rows
    return [rows[index * len(rows) // limit] for index in range(limit)]
