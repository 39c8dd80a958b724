"""The page of an evaluation: every figure beside chance and another model, what is confused, hits and misses with pictures.

One HTML file that needs nothing else. Class names, captions and keys come from the sets: they are escaped.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from tasks.evaluate.report_pictures import SIDE, picked, thumbnails
from tasks.evaluate.report_tables import contamination_table, details, interval, percent, table
from tasks.evaluate.run_suite import Evaluation, average
from tasks.reports.figures import accuracy_figure, png
from tasks.reports.page import page, text
from training.evaluation.intervals import flatten_metrics
from training.evaluation.suite import Suite
from training.evaluation.task import Task

EXAMPLES = 8
WORST = 10
STYLE = f"""<style>
.pictures {{ display: flex; flex-wrap: wrap; gap: .7rem; margin: .3rem 0 1rem; }}
figure {{ margin: 0; width: {SIDE}px; font-size: .78rem; line-height: 1.3; }}
figure img {{ display: block; width: {SIDE}px; height: {SIDE}px; object-fit: contain; background: #fff;
  border: 1px solid var(--line); border-radius: 3px; }}
figcaption {{ overflow-wrap: anywhere; padding-top: .2rem; }} h3 {{ font-size: 1rem; margin: 1.4rem 0 .3rem; }}
.hit, .better {{ color: var(--kept); }} .miss, .worse {{ color: var(--gone); }} .verdict {{ white-space: nowrap; }}
</style>"""


def report_html(
    suite: Suite,
    found: Evaluation,
    against: Evaluation | None = None,
    compared: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page.

    Args:
        suite: whose tasks' pictures are on this machine.
        against: another model's results, drawn beside these.
        compared: by task and metric, as training/evaluation/comparison.py compares.
    """
    rows = flatten_metrics(found.metrics)
    others = {row["key"]: row["value"] for row in flatten_metrics(against.metrics)} if against else {}
    title = f"{found.model} on {suite.name}"
    tables = found.predictions()
    sections = [
        STYLE,
        f"<h1>{text(title)}</h1>",
        _summary(suite, found, against),
        f'<img alt="Each figure with its interval, beside chance" src="{_data(png(accuracy_figure(rows, others)))}">',
        _figures(rows, others, compared or {}, against),
        contamination_table(found.metrics),
        *(_task(task, found.metrics[task.name], tables[task.name]) for task in suite.tasks),
    ]
    return page(title, sections, pictures=True)


def _summary(suite: Suite, found: Evaluation, against: Evaluation | None) -> str:
    mean = average(found.metrics, suite)
    size = f"{mean['tasks']} of {mean['tasks'] + len(mean['missing'])} sets"
    said = f"Average of the figures that stand for each set: <b>{percent(mean['value'])}</b> over {size}."
    said += f" Compared with <b>{text(against.model)}</b>." if against else ""
    parts = f"<p class=note>{said} Intervals are of 99.5% and speak of the drawing of test images only.</p>"
    if not mean["missing"]:
        return parts
    rows = [[text(name), text(reason)] for name, reason in mean["missing"].items()]
    return f"{parts}<h3>Not in this average</h3>{table(['set', 'why'], rows)}"


def _figures(
    rows: Sequence[Mapping[str, Any]],
    others: Mapping[str, float],
    compared: Mapping[str, Mapping[str, Any]],
    against: Evaluation | None,
) -> str:
    head = ["set", "figure", "value", "99.5% interval", "chance", "n"]
    head += [text(against.model), "difference", ""] if against else []
    body = []
    for row in rows:
        figure = text(row["metric"]).replace("_", "_<wbr>")  # else it breaks within a word
        line = [text(row["task"]), figure, percent(row["value"]), interval(row), percent(row["chance"])]
        line.append(f"{row['n']:,}")
        if against:
            comparison = compared.get(row["task"], {}).get(row["metric"])
            line += [percent(others.get(row["key"])), *_verdict(comparison)]
        body.append(line)
    return "<h2>All figures</h2>" + table(head, body, right=range(2, 8))


def _verdict(comparison: Mapping[str, Any] | None) -> list[str]:
    if comparison is None:
        return ["", ""]
    points = f"{100 * comparison['difference']:+.2f} ({100 * comparison['low']:+.2f} … {100 * comparison['high']:+.2f})"
    kind = comparison["verdict"] if comparison["verdict"] in ("better", "worse") else "note"
    return [points, f'<span class="{kind} verdict">{comparison["verdict"]}</span>']


def _task(task: Task, result: Mapping[str, Any], predictions: pa.Table) -> str:
    parts = [f"<h2><code>{text(task.name)}</code></h2>", f'<p class="note">{text(_about(task, result))}</p>']
    parts += details(result)
    rows = predictions.to_pylist()
    if task.kind == "classification":
        parts += [_confusions(rows), _examples(task, rows)]
    elif task.kind == "retrieval":
        parts.append(_captions(task, rows))
    elif task.kind == "association":
        worst = sorted(rows, key=lambda row: row["jaccard"])[:WORST]
        body = [[text(r["cue"]), percent(r["jaccard"]), text(", ".join(r["associations"]))] for r in worst]
        parts += ["<h3>Words solved worst</h3>", table(["word", "Jaccard index", "its pictures"], body, right=[1])]
    else:
        names = task.data.class_names()
        worst = sorted(zip(result["average_precision"], names, strict=True))[:WORST]
        body = [[text(name), percent(value)] for value, name in worst]
        parts += ["<h3>Classes found worst</h3>", table(["class", "average precision"], body, right=[1])]
    return "".join(parts)


def _about(task: Task, result: Mapping[str, Any]) -> str:
    said = f"{result['n']:,} {'words' if result['kind'] == 'association' else 'images'}"
    if "expected_n" in result:
        said += f" (the suite says {result['expected_n']:,})"
    if "classes" in result:
        said += f", {result['classes']:,} classes, {result['templates']} prompts a class"
    if "captions" in result:
        said += f", {result['captions']:,} captions"
    if result["unreadable"]:
        said += f"; {result['unreadable']:,} could not be decoded and count as wrong"
    return f"{said}. {task.description}".strip()


def _confusions(rows: Sequence[Mapping[str, Any]]) -> str:
    """The classes with the lowest accuracy, and what they are taken for."""
    seen, right = Counter(r["label_name"] for r in rows), Counter(r["label_name"] for r in rows if r["rank"] == 1)
    taken = {name: Counter[str]() for name in seen}
    for row in rows:
        if row["status"] == "ok" and row["rank"] != 1:
            taken[row["label_name"]][row["predicted_name"]] += 1
    # at the same accuracy the larger class first: it says more
    worst = sorted(seen, key=lambda name: (right[name] / seen[name], -seen[name], name))[:WORST]
    body = [
        [text(name), percent(right[name] / seen[name]), f"{seen[name]:,}", _listed(taken[name].most_common(4))]
        for name in worst
        if right[name] < seen[name]
    ]
    if not body:
        return ""
    return "<h3>Classes told worst</h3>" + table(["class", "right", "images", "taken for"], body, right=[1, 2])


def _listed(counted: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{text(name)} ({number:,})" for name, number in counted)


def _examples(task: Task, rows: Sequence[dict[str, Any]]) -> str:
    """Hits from all over the set, and the misses that the model was surest of."""
    answered = [row for row in rows if row["status"] == "ok"]
    hits = picked([row for row in answered if row["rank"] == 1], EXAMPLES)
    misses = sorted((row for row in answered if row["rank"] != 1), key=lambda row: (-row["scores"][0], row["key"]))
    pictures = thumbnails(task.data, {row["key"] for row in (*hits, *misses[:EXAMPLES])})
    shown = (
        [_figure(pictures, row, f'<span class="hit">{text(row["label_name"])}</span>') for row in hits],
        [
            _figure(
                pictures, row, f'{text(row["label_name"])}<br><span class="miss">{text(row["predicted_name"])}</span>'
            )
            for row in misses[:EXAMPLES]
        ],
    )
    titles = "Hits", "Misses that the model was surest of (what it is, what it was taken for)"
    return "".join(
        f'<h3>{title}</h3><div class="pictures">{"".join(figures)}</div>'
        for title, figures in zip(titles, shown, strict=True)
        if figures
    )


def _captions(task: Task, rows: Sequence[dict[str, Any]]) -> str:
    """Images whose own caption comes late among all captions."""
    answered = [row for row in rows if row["status"] == "ok"]
    worst = sorted(answered, key=lambda row: (-row["image_to_text_rank"], row["key"]))[:EXAMPLES]
    pictures = thumbnails(task.data, {row["key"] for row in worst})
    figures = [
        _figure(
            pictures,
            row,
            f'{text(row["captions"][0][:90])}<br><span class="miss">rank {row["image_to_text_rank"]:,}</span>',
        )
        for row in worst
    ]
    return f'<h3>Images whose captions come latest</h3><div class="pictures">{"".join(figures)}</div>'


def _figure(pictures: Mapping[str, str], row: Mapping[str, Any], caption: str) -> str:
    image = f'<img alt="" src="{pictures[row["key"]]}">' if row["key"] in pictures else ""
    return f'<figure title="{text(row["key"])}">{image}<figcaption>{caption}</figcaption></figure>'


def _data(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
