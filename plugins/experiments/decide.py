"""Read what the runs of an experiment measured, compare the variants, and say what follows in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from dataops.errors import ConfigError, ContractError
from dataops.facts import EvaluateFacts
from dataops.formatting import format_percent, format_quantity
from dataops.snapshot import Manifest, find_manifest, read_table
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from flows.records import read_record
from plugins.experiments.comparisons import Comparison, Floats, TaskScores, compare_variants
from plugins.experiments.config import LAST
from plugins.experiments.ladder import Forecast, read_forecasts
from plugins.experiments.run import Cell, Record
from tasks.evaluate.run_suite import read_evaluation
from training.evaluation.comparison import count_captions
from training.evaluation.contamination import group_by_task

MATCHES = "evaluation-matches.parquet"


@dataclass
class VariantResult:
    """What the runs of a variant measured, and what they took."""

    name: str
    settings: tuple[str, ...]
    state: str
    """`complete`, or what became of the first seed that has no result."""
    error: str = ""
    values: list[float] = field(default_factory=list)
    """The deciding metric with each seed."""
    chance: float | None = None
    chance_error: float = 0.0
    """Standard error of the metric of a model at chance, by the number of test images."""
    rows: int = 0
    """Pairs of the dataset."""
    samples_seen: int = 0
    """Samples of one training."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows by `stage: reason`."""
    matched: int = 0
    """Test images that are in the training data."""
    seconds: float | None = None
    """Time of all its stages, also of those that it shares with other variants; None if runs do not show it."""
    run_ids: list[str] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.values))


@dataclass
class Result:
    """The result of an experiment."""

    name: str
    metric: str
    confidence: float
    seeds: int
    variants: list[VariantResult]
    images: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    """Of the variants in `compared`, by their indices there."""
    compared: list[str] = field(default_factory=list)
    clean: list[Comparison] = field(default_factory=list)
    """The same without the test images that are in the training data of any variant; empty if there are none."""
    decision: str = ""
    notes: list[str] = field(default_factory=list)
    forecasts: list[Forecast] = field(default_factory=list)
    """Of each variant that has a ladder."""


def read_result(record: Record, store: Store) -> Result:
    """Read the snapshots that a record names, and decide.

    Raises: ConfigError if a snapshot was deleted; ContractError if variants were not measured on the same images.
    """
    names = list(dict.fromkeys(cell.variant for cell in record.compared))
    seeds = max(cell.seed for cell in record.compared) + 1
    result = Result(record.name, record.metric, record.confidence, seeds, [])
    scores: list[list[dict[str, pa.Table]]] = []
    matches: dict[str, set[str]] = {}
    seconds = _read_seconds(record, store)
    for name in names:
        cells = [cell for cell in record.compared if cell.variant == name]
        one, tables = _read_variant(name, cells, record.tasks, store, matches, seconds)
        result.variants.append(one)
        if tables:
            result.compared.append(name)
            scores.append(tables)
    if len(scores) > 1:
        tasks = [_collect(task, metric, scores) for task, metric in record.tasks.items()]
        result.images = sum(task.weights_N.size for task in tasks)
        result.comparisons = compare_variants(tasks, record.confidence)
        if clean := _without(tasks, scores[0][0], matches):
            result.clean = compare_variants(clean, record.confidence)
    result.decision, result.notes = _decide(result)
    if len(record.compared) < len(record.cells):
        result.forecasts, notes = read_forecasts(record, store, names)
        result.notes += notes
    return result


def score_images(metric: str, table: pa.Table) -> tuple[Floats, Floats]:
    """Return how right each image is by a metric, 0 to 1, and its weight; their weighted mean is the metric."""
    ones = np.ones(table.num_rows)
    if metric == "jaccard":
        return table["jaccard"].to_numpy(), ones
    if metric == "accuracy":
        return np.array([float(bool(one)) for one in table["is_right"].to_pylist()]), ones
    if metric.endswith(tuple("0123456789")) and "_R_at_" in metric:
        way, _, k = metric.partition("_R_at_")
        most = int(k)
        to_text = np.array(
            [float(rank is not None and rank <= most) for rank in table["image_to_text_rank"].to_pylist()]
        )
        if way == "image_to_text":
            return to_text, ones
        captions = count_captions(table)
        ranks = table["text_to_image_ranks"].to_pylist()
        hits = np.array([float(sum(rank <= most for rank in row or ())) for row in ranks])
        if way == "text_to_image":
            return np.divide(hits, captions, out=np.zeros_like(hits), where=captions > 0), captions
        return (to_text + hits / captions.mean()) / 2, ones
    ranks = table["rank"].to_pylist()
    right = np.array([float(rank is not None and rank <= (5 if metric == "top5" else 1)) for rank in ranks])
    if metric != "mean_per_class":
        return right, ones
    _, classes_N, counts = np.unique(table["label"].to_numpy(), return_inverse=True, return_counts=True)
    return right, 1 / counts[classes_N]


def _read_variant(
    name: str,
    cells: Sequence[Cell],
    tasks: Mapping[str, str],
    store: Store,
    matches: dict[str, set[str]],
    seconds: Mapping[tuple[str, str], float],
) -> tuple[VariantResult, list[dict[str, pa.Table]]]:
    """Return what a variant measured, and its predictions by task for each seed; none if a seed has no result.

    Args:
        matches: test images in training data by task; those of this variant are added.
        seconds: time of each snapshot.
    """
    settings = tuple(one for one in cells[0].settings if not one.startswith("train.seed="))
    lacking = next((cell for cell in cells if cell.state != "complete"), None)
    if lacking is not None:
        return VariantResult(name, settings, lacking.state, lacking.error), []
    one = VariantResult(name, settings, "complete", run_ids=[one for cell in cells for one in cell.run_ids])
    known = [seconds.get((stage, key)) for stage, key in {item for cell in cells for item in cell.keys.items()}]
    one.seconds = None if None in known else round(sum(filter(None, known)), 1)
    found: list[dict[str, pa.Table]] = []
    own: set[tuple[str, str]] = set()
    for cell in cells:
        manifests = {stage: _load(store, stage, key) for stage, key in cell.keys.items()}
        metrics = EvaluateFacts.of(manifests[LAST]).metrics
        measured = [metrics[task]["metrics"][metric] for task, metric in tasks.items()]
        one.values.append(float(np.mean([each["value"] for each in measured])))
        if all(each["chance"] is not None for each in measured):
            chances = np.array([each["chance"] for each in measured])
            images = np.array([metrics[task]["n"] for task in tasks])
            one.chance = float(chances.mean())
            one.chance_error = float(np.sqrt((chances * (1 - chances) / images).sum()) / len(chances))
        predictions = read_evaluation(name, store, manifests[LAST]).predictions()
        found.append({task: predictions[task] for task in tasks})
        if any(part.name == MATCHES for part in manifests[LAST].parts):
            grouped = group_by_task(read_table(store, manifests[LAST].path(MATCHES)))
            own |= {(task, key) for task in tasks for key in grouped.get(task, ())}
        one.rows = manifests["pack"].counts.kept
        one.samples_seen = one.rows * int(manifests["train"].config.get("epochs", 1))
        counts = {stage: manifests[stage].counts.dropped for stage in PAIR_STAGES if stage in manifests}
        one.dropped = {f"{stage}: {reason}": n for stage, dropped in counts.items() for reason, n in dropped.items()}
    one.matched = len(own)
    for task, key in own:
        matches.setdefault(task, set()).add(key)
    return one, found


def _read_seconds(record: Record, store: Store) -> dict[tuple[str, str], float]:
    """Return the time that the runs of an experiment took for each snapshot that they made."""
    found: dict[tuple[str, str], float] = {}
    for run_id in (one for cell in record.cells for one in cell.run_ids):
        if store.size(name := f"runs/{run_id}.json") is None:
            continue
        for stage in read_record(store, name).stages:
            if stage.state == "Completed":
                found[stage.stage, stage.key] = stage.seconds
    return found


def format_time(seconds: float | None) -> str:
    """Return a time in minutes, or in hours from two hours on; nothing for an unknown one."""
    if seconds is None:
        return ""
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _load(store: Store, stage: str, key: str) -> Manifest:
    if (manifest := find_manifest(store, stage, key)) is None:
        raise ConfigError(
            f"{stage}/{key} of the experiment is no longer in {store.uri}; run the experiment again, which makes it"
        )
    return manifest


def _collect(task: str, metric: str, scores: Sequence[Sequence[Mapping[str, pa.Table]]]) -> TaskScores:
    """Return the scores of a task. Raises: ContractError unless all runs have the same images in the same order."""
    first = scores[0][0][task]
    keys, (_, weights_N) = first["key"].to_pylist(), score_images(metric, first)
    for seeds in scores:
        for one in seeds:
            if one[task]["key"].to_pylist() != keys:
                raise ContractError(
                    f"{task}: the variants were not measured on the same images; run the experiment again"
                )
    measured = np.array([[score_images(metric, one[task])[0] for one in seeds] for seeds in scores])
    classes = first["label"].to_numpy() if "label" in first.column_names else np.arange(len(keys))
    return TaskScores(task, measured, weights_N, classes)


def _without(
    tasks: Sequence[TaskScores], tables: Mapping[str, pa.Table], matches: Mapping[str, set[str]]
) -> list[TaskScores]:
    """Return the tasks without matched images; none if no image is matched. One that is matched as a whole is left out."""
    if not any(matches.values()):
        return []
    clean = []
    for one in tasks:
        keep = np.array([key not in matches.get(one.name, ()) for key in tables[one.name]["key"].to_pylist()])
        if keep.sum() > 1:
            clean.append(TaskScores(one.name, one.scores_VSN[:, :, keep], one.weights_N[keep], one.classes_N[keep]))
    return clean


def list_differences(result: Result) -> list[list[str]]:
    """Return the cells of a table of all comparisons: variants, difference, interval, p, verdict."""
    rows = []
    for one in result.comparisons:
        first, second = result.compared[one.first], result.compared[one.second]
        verdict = f"{second if one.difference > 0 else first} is better" if one.distinct else "not distinguishable"
        ends = f"{100 * one.low:+.2f} … {100 * one.high:+.2f}"
        rows.append([f"{second} − {first}", f"{100 * one.difference:+.2f}", ends, f"{one.p_adjusted:.3g}", verdict])
    return rows


def find_leader(comparisons: Sequence[Comparison], variants: int) -> tuple[int, list[Comparison]]:
    """Return the variant with the highest value, and the comparisons in which it is not distinguishable."""
    ahead = {index: 0 for index in range(variants)}
    for one in comparisons:
        ahead[one.second if one.difference > 0 else one.first] += 1
    leader = max(ahead, key=lambda index: (ahead[index], -index))
    own = [one for one in comparisons if leader in (one.first, one.second)]
    return leader, [one for one in own if not one.distinct]


def _decide(result: Result) -> tuple[str, list[str]]:
    notes = [
        f"{one.name} has no result: {one.error or one.state}" for one in result.variants if one.state != "complete"
    ]
    names, sure = result.compared, f"{100 * result.confidence:g}%"
    if len(names) < 2:
        return (
            f"Nothing is decided: {format_quantity(len(names), 'variant')} of {len(result.variants)} finished.",
            notes,
        )
    if _is_at_chance(result):
        return "Nothing is decided: every variant is at chance on the suite, so it cannot distinguish them.", notes
    leader, open_ = find_leader(result.comparisons, len(names))
    best = names[leader]
    if not open_:
        decision = f"{best} is better than {_join(one for one in names if one != best)} ({sure} confidence)."
    else:
        others = _join(names[one.first if one.second == leader else one.second] for one in open_)
        decision = (
            f"{best} leads, and is not distinguishable from {others} at {sure} confidence. {_advise(open_, result)}"
        )
    if result.clean:
        clean, undecided = find_leader(result.clean, len(names))
        if clean != leader or (undecided and not open_):
            matched = next(one.matched for one in result.variants if one.name == best)
            what = f"{names[clean]} leads" if clean != leader else f"{best} is not distinguishable from all others"
            decision += f" {best} is ahead by contamination: without the test images that are in training data, {what}."
            notes.append(f"{format_quantity(matched, 'test image')} are in the training data of {best}")
    return decision, notes


def _is_at_chance(result: Result) -> bool:
    """Return whether no variant is above chance by more than two standard errors."""
    found = [one for one in result.variants if one.state == "complete"]
    return all(one.chance is not None and one.value - one.chance <= 2 * one.chance_error for one in found)


def _advise(open_: Sequence[Comparison], result: Result) -> str:
    """Return what would distinguish the leader from the nearest variant."""
    nearest = min(open_, key=lambda one: abs(one.difference))
    if nearest.needed is None:
        return "They answer alike on every image."
    seeds, images = nearest.needed.seeds, nearest.needed.images
    ways = [f"{seeds:,} seeds"] if seeds is not None else []
    ways += [f"{images:,} test images (now {result.images:,})"] if images is not None else []
    if not ways:
        return "Neither more seeds nor more test images alone would show so small a difference."
    gap = format_percent(abs(nearest.difference))
    return f"A difference of {gap} would need about {' or '.join(ways)}."


def _join(names: Any) -> str:
    found = list(names)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"
