"""`pairmill interpolate`: between a model and its adapted version, find the weights that are good at new and old tasks."""

import logging
import shutil
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError
from flows.commands.options import Json
from flows.commands.output import console, new_table, print_json
from infra.local import services
from tasks.engine.subprocess_job import run_job
from tasks.evaluate.run_suite import EvaluationSettings, average_metrics, evaluate_model
from tasks.models.find import find_model
from training.evaluation.suite import FETCHED, Suite, load_suite, read_tasks

logger = logging.getLogger(__name__)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def interpolate(
    base: str,
    tuned: str,
    output: Path,
    *,
    new: Annotated[Path, Parameter(help="Suite of the tasks that the model was adapted to.")],
    old: Annotated[Path, Parameter(help="Suite of what the model could do before.")],
    shares: Annotated[tuple[float, ...], Parameter(help="Shares of the adapted weights to try.")] = SHARES,
    device: Annotated[str, Parameter(help="A torch device (cpu, cuda), or auto.")] = "auto",
    json: Json = False,
) -> int:
    """Evaluate models between a base and its adapted version on two suites, and keep the one with the best mean.

    Choose on sets that you do not report: the best of several is a little too good on the sets that chose it.

    Args:
        base: The model before it was adapted: a folder, a file, hf-hub:owner/name, or a registered model.
        tuned: The adapted model: a folder, or a registered model: NAME/VERSION, NAME@ALIAS.
        output: Folder for the chosen model.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    if output.exists():
        raise ConfigError(f"{output} is there already; name a new folder")
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ConfigError(f"shares: {shares} are not all from 0 to 1")
    home = services.home()
    suites = [load_suite(path, home / FETCHED if _is_fetched(path) else None, partial=True) for path in (new, old)]
    work = output.with_name(f"{output.name}.candidates")
    folders = {f"{share:g}": share for share in sorted({*shares})}
    models = {str((work / name).absolute()): share for name, share in folders.items()}
    start = base if base.startswith("hf-hub:") else str(find_model(base, home).path)
    job = {"base": start, "tuned": str(find_model(tuned, home).path), "models": models}
    run_job("plugins.recipes.interpolate_job", job, work / "job", on_line=logger.info)
    settings = EvaluationSettings(device=device)
    rows = [_score(Path(folder), share, suites, home, settings) for folder, share in models.items()]
    best = max(rows, key=lambda row: (row["mean"], -row["share"]))
    shutil.move(work / f"{best['share']:g}", output)
    shutil.rmtree(work)
    if json:
        print_json({"chosen": best["share"], "model": str(output), "rows": rows})
        return 0
    columns = (suites[0].name, suites[1].name, "mean")
    table = new_table("Models between base (0) and adapted (1), %", "share", *columns, right=columns)
    for row in rows:
        figures = (f"{100 * row[name]:.1f}" for name in ("new", "old", "mean"))
        table.add_row(f"{row['share']:g}{' *' if row is best else ''}", *figures)
    console().print(table)
    console().write(f"Chosen: {best['share']:g}, in {output}")
    return 0


def _is_fetched(suite: Path) -> bool:
    return any(task.source for _, task in read_tasks(suite)[1])


def _score(
    model: Path, share: float, suites: list[Suite], home: Path, settings: EvaluationSettings
) -> dict[str, float]:
    """Return the mean of the main metrics on both suites, and their mean."""
    values = []
    for suite in suites:
        found = evaluate_model(str(model), suite, home, settings, on_line=logger.info)
        value = average_metrics(found.metrics, suite)["value"]
        if value is None:
            raise ConfigError(f"{suite.name}: no task counts in its average")
        values.append(value)
    return {"share": share, "new": values[0], "old": values[1], "mean": sum(values) / 2}
