"""`pairmill eval`: evaluates any model on a suite."""

import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dataops.errors import writing
from dataops.formatting import format_percent, format_quantity
from flows.commands.options import Json, Name
from flows.commands.output import console, new_table, print_json, score_cells
from infra.local import services
from plugins.evaluation_sets.robustness import effective_robustness
from tasks.evaluate.report import report_html
from tasks.evaluate.run_suite import Evaluation, EvaluationSettings, average_metrics, evaluate_model
from training.evaluation.comparison import compare
from training.evaluation.intervals import flatten_metrics
from training.evaluation.suite import FETCHED, Precision, Suite, load_suite, read_tasks

logger = logging.getLogger(__name__)


def _check_device(_: object, device: str) -> None:
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d{1,3})?", device):
        raise ValueError("Write auto, cpu, cuda or cuda:1.")


def _check_number(_: object, number: int) -> None:
    if number < 1:
        raise ValueError("It must be at least 1.")


def evaluate(
    model: Name,
    *,
    suite: Path,
    against: Annotated[
        str | None, Parameter(help="Another model to compare with: better, worse or indistinguishable.")
    ] = None,
    data: Annotated[
        Path | None,
        Parameter(
            help="Folder of the suite's sets; default: the folder of `datasets fetch` if the suite names sources, else"
            " the suite's own folder."
        ),
    ] = None,
    page: Annotated[Path | None, Parameter(help="File to write the HTML page with example images to.")] = None,
    batch_size: Annotated[int, Parameter(help="Number of images per batch.", validator=_check_number)] = 256,
    device: Annotated[
        str, Parameter(help="A torch device (cpu, cuda, cuda:1), or auto.", validator=_check_device)
    ] = "auto",
    precision: Annotated[Precision, Parameter(help="Precision of the model; bf16_texts: of its text tower.")] = "fp32",
    nproc: Annotated[int, Parameter(help="Number of processes to evaluate in.", validator=_check_number)] = 1,
    json: Json = False,
) -> int:
    """Evaluate any model on a suite, without a pipeline run.

    Args:
        model: A folder (of pairmill or open_clip), OpenAI's .pt file, or a registered model: NAME/VERSION, NAME@ALIAS.
        suite: TOML file, such as configs/suites/datacomp.toml.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    home, settings = services.home(), EvaluationSettings(batch_size, device, precision, nproc)
    sets = load_suite(suite, data_folder(suite, data, home), partial=True)
    found = evaluate_model(model, sets, home, settings, on_line=logger.info)
    other, compared = None, {}
    if against is not None:
        other = evaluate_model(against, sets, home, settings, on_line=logger.info)
        theirs = other.predictions()
        compared = {task: compare(own, theirs[task]) for task, own in found.predictions().items() if task in theirs}
    page = page or found.folder / "report.html"
    with writing(page):
        page.write_text(report_html(sets, found, other, compared), encoding="utf-8")
    if json:
        print_json(_as_json(sets, found, other, compared, page))
    else:
        _show(sets, found, other, compared)
        console().write(f"Page with example images: {page}")
    return 0


def data_folder(suite: Path, data: Path | None, home: Path) -> Path | None:
    """Return the folder of a suite's relative roots, or None for the suite's own folder.

    It is `data` if set; else the folder of fetched sets if the suite names sources.
    """
    if data is not None:
        return data
    _, labelled, _ = read_tasks(suite)
    return home / FETCHED if any(task.source for _, task in labelled) else None


def effective_robustness_by_set(found: Evaluation, other: Evaluation) -> dict[str, float]:
    """Return the effective robustness of a model on each shifted set, relative to the line through the other's scores."""
    shifts = {name: r["robustness"] for name, r in found.metrics.items() if "robustness" in r}
    theirs = {name: other.metrics[name]["robustness"] for name in shifts if "robustness" in other.metrics.get(name, {})}
    return {
        name: effective_robustness(*(one[key] for one in (shifts[name], line) for key in ("base_value", "value")))
        for name, line in theirs.items()
    }


def _as_json(
    suite: Suite,
    found: Evaluation,
    other: Evaluation | None,
    compared: Mapping[str, object],
    page: Path,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "model": found.model,
        "suite": suite.name,
        "metrics": found.metrics,
        "average": average_metrics(found.metrics, suite),
        "folder": str(found.folder),
        "page": str(page),
    }
    if other is not None:
        result |= {"against": other.model, "against_metrics": other.metrics, "comparison": compared}
        result["effective_robustness"] = effective_robustness_by_set(found, other)
    return result


def _show(suite: Suite, found: Evaluation, other: Evaluation | None, compared: Mapping[str, object]) -> None:
    out = console()
    numbers = ["value", "99.5% interval", "chance", "n"]
    table = new_table(f"{found.model} on {suite.name} (%)", "task", "metric", *numbers, right=numbers)
    for row in flatten_metrics(found.metrics):
        table.add_row(row["task"], row["metric"], *score_cells(row))
    out.print(table)
    if other is not None:
        _show_comparison(other, compared)
    out.print()
    for name, result in found.metrics.items():
        if shift := result.get("robustness"):
            out.write(f"{name}: {100 * shift['gap']:.2f} points below {shift['base']}")
    for name, value in (effective_robustness_by_set(found, other) if other else {}).items():
        out.write(f"{name}: effective robustness against the other model {100 * value:+.2f} points")
    _show_average(suite, found)


def _show_comparison(other: Evaluation, compared: Mapping[str, Any]) -> None:
    out, numbers = console(), ["value", "other", "difference", "99.5% interval", "p"]
    out.print()
    table = new_table(f"Against {other.model} (%)", "task", "metric", *numbers, "verdict", right=numbers)
    for task, metrics in compared.items():
        for metric, found in metrics.items():
            p_value = "" if found["p_value"] is None else f"{found['p_value']:.2g}"
            interval = f"{100 * found['low']:+.2f} - {100 * found['high']:+.2f}"
            figures = [format_percent(found[name], sign="", missing="") for name in ("first", "second")]
            figures.append(f"{100 * found['difference']:+.2f}")
            table.add_row(task, metric, *figures, interval, p_value, found["verdict"])
    out.print(table)


def _show_average(suite: Suite, found: Evaluation) -> None:
    """Print the average, and the sets that it leaves out."""
    mean = average_metrics(found.metrics, suite)
    of = mean["tasks"] + len(mean["missing"])
    average = format_percent(mean["value"], sign="", missing="")
    console().write(f"Average over {mean['tasks']} of {format_quantity(of, 'set')}: {average}")
    for name, reason in mean["missing"].items():
        console().write(f"  without {name}: {reason}")
