"""Count, read and compare what was trained, and print the table of a comparison."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from benchmarks.measure import Row
from benchmarks.recipes.significance import compare_seeds
from dataops.snapshot import Manifest, read_parts, read_table
from dataops.store import Store


def count_epoch(store: Store, packed: Manifest) -> float:
    """Return the mean number of samples of an epoch of a dataset."""
    rows = read_parts(store, packed, columns=["sampling_probability"])
    return float(sum(1.0 if chance is None else chance for chance in rows["sampling_probability"].to_pylist()))


def read_predictions(store: Store, evaluation: Manifest) -> dict[str, pa.Table]:
    """Return the predictions of an evaluation on each classification task, by task."""
    tasks = [name for name, result in evaluation.facts["metrics"].items() if "top1" in result["metrics"]]
    return {name: read_table(store, evaluation.path(f"predictions-{name}.parquet")) for name in tasks}


def compare_recipes(
    results: Mapping[str, Mapping[str, Any]], baseline: str, others: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the comparison of each recipe with the baseline, by task.

    Args:
        others: recipes that are compared with another one than the baseline, by name.
    """
    bases = {name: results[(others or {}).get(name, baseline)]["predictions"] for name in results}
    tasks = list(bases[baseline][0])
    return {
        name: {
            task: compare_seeds([one[task] for one in result["predictions"]], [one[task] for one in bases[name]])
            for task in tasks
        }
        for name, result in results.items()
    }


def list_rows(compared: Mapping[str, Mapping[str, Any]], baseline: str) -> list[Row]:
    """Return the rows of the benchmark's result: top-1 of each recipe and of the baseline, by task."""
    return [
        Row(f"{name}/{task}", found["first"], found["second"], baseline, "top-1")
        for name, tasks in compared.items()
        for task, found in tasks.items()
    ]


def list_details(
    results: Mapping[str, Mapping[str, Any]], compared: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the details of the benchmark's result: the figures of each dataset and all comparisons."""
    datasets = {name: {k: v for k, v in one.items() if k != "predictions"} for name, one in results.items()}
    return {"datasets": datasets, "compared": {name: dict(tasks) for name, tasks in compared.items()}}


def format_table(
    results: Mapping[str, Mapping[str, Any]], compared: Mapping[str, Mapping[str, Any]], baseline: str, main: str
) -> str:
    """Return the table as Markdown.

    Args:
        main: the task that decides; the first one if there is no task of this name.
    """
    tasks = list(compared[baseline])
    main = main if main in tasks else tasks[0]
    others = [task for task in tasks if task != main]
    head = ["recipe", "pairs", "samples", f"{main} top-1, %", "difference [99.5%]", "p of each seed", "verdict"]
    head += ["images needed", *(f"{task}, %" for task in others)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, result in sorted(results.items(), key=lambda item: -compared[item[0]][main]["first"]):
        found, is_base = compared[name][main], name == baseline
        seen = sum(result["samples_seen"]) / len(result["samples_seen"])
        needed = found["images_needed"]
        cells = [name, f"{result['pairs']:,}", f"{seen:,.0f}", f"{100 * found['first']:.2f}"]
        cells += [
            ""
            if is_base
            else f"{100 * found['difference']:+.2f} [{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]",
            "" if is_base else ", ".join(f"{p:.2g}" for p in found["p_values"]),
            "" if is_base else found["verdict"],
            "" if is_base or needed is None else f"{needed:,}",
            *(f"{100 * compared[name][task]['first']:.2f}" for task in others),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
