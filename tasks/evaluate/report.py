"""The page of an evaluation: every metric beside chance and another model, confused classes, example images."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dataops.formatting import format_quantity
from dataops.images.decode import PREVIEW_SIDE
from tasks.evaluate.report_images import choose_evenly, make_thumbnails
from tasks.evaluate.report_tables import (
    describe_details,
    describe_overlap,
    find_confusions,
    find_worst_classes,
    find_worst_words,
)
from tasks.evaluate.run_suite import Evaluation, average_metrics
from tasks.reports.page import render
from tasks.reports.svg_results import draw_results
from training.evaluation.intervals import flatten_metrics
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
        against: another model's results, drawn beside these.
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
        results=draw_results(rows, others),
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


def _describe_task(task: Task, result: Mapping[str, Any], predictions: pa.Table) -> dict[str, Any]:
    """Return name, summary, sections and galleries of a task."""
    rows, sections, galleries = predictions.to_pylist(), describe_details(result), []
    if task.kind == "classification":
        sections += find_confusions(rows)
        galleries = _choose_examples(task, rows)
    elif task.kind == "retrieval":
        galleries = [_choose_late_captions(task, rows)]
    elif task.kind == "association":
        sections.append(find_worst_words(rows))
    else:
        sections.append(find_worst_classes(result["average_precision"], task.data.class_names()))
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


def _choose_examples(task: Task, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
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


def _choose_late_captions(task: Task, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a gallery of the images whose own caption has the last rank among all captions."""
    answered = [row for row in rows if row["status"] == "ok"]
    worst = sorted(answered, key=lambda row: (-row["image_to_text_rank"], row["key"]))[:EXAMPLES]
    images = make_thumbnails(task.data, {row["key"] for row in worst})
    figures = [
        _figure(images, row, row["captions"][0][:CAPTION_CHARS], f"rank {row['image_to_text_rank']:,}") for row in worst
    ]
    return {"title": "Images whose captions have the last ranks", "figures": figures}


def _figure(images: Mapping[str, str], row: Mapping[str, Any], label: str, miss: str | None = None) -> dict[str, Any]:
    return {"key": row["key"], "preview": images.get(row["key"]), "label": label, "miss": miss}
