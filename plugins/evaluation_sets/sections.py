"""What the page of an evaluation shows of these measures, each as a section."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluate.report import WORST, interval, percent
from tasks.reports.page import Section
from training.evaluation.task import Task

Rows = Sequence[Mapping[str, Any]]


def find_worst_words(task: Task, result: Mapping[str, Any], rows: Rows) -> Section:
    """Return the cues of an association task with the lowest Jaccard index."""
    worst = sorted(rows, key=lambda row: row["jaccard"])[:WORST]
    body = [[row["cue"], percent(row["jaccard"]), ", ".join(row["associations"])] for row in worst]
    return Section("Words with the lowest score", (), ["word", "Jaccard index", "its images"], body, numbers=(1,))


def find_wrong_choices(task: Task, result: Mapping[str, Any], rows: Rows) -> Section:
    """Return the images of a choice task that prefer a wrong caption by most."""
    wrong = [(max(row["scores"][1:]) - row["scores"][0], row) for row in rows if row["scores"] and not row["is_right"]]
    wrong = sorted(wrong, key=lambda each: (-each[0], each[1]["key"]))[:WORST]
    body = [[row["captions"][0], row["captions"][row["scores"].index(max(row["scores"]))]] for _, row in wrong]
    return Section("Wrong choices by the largest difference", (), ["right caption", "chosen caption"], body)


def find_worst_classes(task: Task, result: Mapping[str, Any], rows: Rows) -> Section:
    """Return the classes of a multi-label task with the lowest average precision."""
    worst = sorted(zip(result["average_precision"], task.data.class_names(), strict=True))[:WORST]
    body = [[name, percent(value)] for value, name in worst]
    return Section("Classes with the lowest precision", (), ["class", "average precision"], body, numbers=(1,))


def describe_probe(result: Mapping[str, Any]) -> Section:
    """Return the accuracy of a linear probe."""
    probe = result["linear_probe"]
    top1 = f"{percent(probe['top1']['value'])} ({interval(probe['top1'])})"
    images = f"after {probe['train']:,} labelled images, L2 strength {probe['strength']:.3g}"
    return Section("", [f"Linear probe, features {result['probe_features']}: {top1} {images}."])


def list_shots(result: Mapping[str, Any]) -> Section:
    """Return the accuracy by the number of labelled images of a class."""
    rows = [
        [f"{s['shots']}", percent(s["top1"]["value"]), interval(s["top1"]), f"{s['train']:,}"]
        for s in result["few_shot"]
    ]
    return Section(
        "Few shots", (), ["shots a class", "top-1", "99.5% interval", "labelled images"], rows, numbers=range(4)
    )
