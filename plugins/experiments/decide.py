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
from dataops.toml_text import format_value
from flows.records import StageRun, read_record
from plugins.experiments.comparisons import Comparison, Floats, TaskScores
from plugins.experiments.config import LAST, SEED, SHARE
from plugins.experiments.ladder import Forecast, read_forecasts
from plugins.experiments.race import FIRST_LOOK, Race
from plugins.experiments.record import Cell, Record
from tasks.curate.evaluation_overlap import MATCHES_PART
from tasks.evaluate.run_suite import read_evaluation
from training.evaluation.comparison import count_captions
from training.evaluation.contamination import group_by_task

NUMBERS = ("value", "by seed", "pairs", "samples seen", "time", "CPU time", "in training")
"""Columns of the table of variants; the last one counts test images that are in the training data."""


@dataclass
class VariantResult:
    """What the runs of a variant measured, and what they took."""

    name: str
    settings: tuple[str, ...]
    state: str
    """`complete`; `ended` if further seeds were not needed; or what became of the first seed that has no result."""
    error: str = ""
    values: list[float] = field(default_factory=list)
    """The deciding metric with each seed."""
    chance: float | None = None
    chance_error: float = 0.0
    """Standard error of the metric of a model at chance, by the number of test images."""
    dataset: str = ""
    """Key of its snapshot of pack."""
    rows: int = 0
    """Pairs of the dataset."""
    samples_seen: int = 0
    """Samples of one training."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows by `stage: reason`."""
    matched: int = 0
    """Test images that are in the training data."""
    seconds: float | None = None
    """Time of the stages that runs of the experiment made, also of those that it shares with other variants; None if
    they made none."""
    cpu_seconds: float | None = None
    """CPU time of the same; None if other machines took part."""
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
    dropped: list[str] = field(default_factory=list)
    """Variants that lost a race."""
    decision: str = ""
    adopt: list[str] = field(default_factory=list)
    """The base config and the settings by which a run adopts the result; empty where nothing is decided."""
    notes: list[str] = field(default_factory=list)
    forecasts: list[Forecast] = field(default_factory=list)
    """Of each variant that has a ladder."""


def read_result(record: Record, store: Store) -> Result:
    """Read the snapshots that a record names, and decide.

    Raises: ConfigError if a snapshot was deleted; ContractError if variants were not measured on the same images.
    """
    read = _Reader(record, store)
    result = Result(record.name, record.metric, record.confidence, record.seeds, read.variants, compared=read.compared)
    if len(read.compared) > 1:
        race, result.images = read.race(), sum(task.weights_N.size for task in read.collect([0], 1)[0])
        result.comparisons, result.clean = list(race.found.values()), list(race.clean.values())
        result.dropped = [read.compared[index] for index in race.dropped]
    result.decision, result.notes, winner = _decide(result)
    if winner is not None:
        settings = [line for line in winner.settings if not line.startswith(f"{SHARE}=")]
        result.adopt = [record.base, *settings, f"register.decided_by={format_value(record.name)}"]
    if len(record.compared) < len(record.cells):
        names = [name for name in read.names if any(one.variant == name and one.samples for one in record.finished)]
        result.forecasts, notes = read_forecasts(record, store, names)
        result.notes += notes
    return result


def find_dropped(record: Record, store: Store) -> dict[str, str]:
    """Return why each variant can no longer win, by the seeds that all others have finished."""
    read = _Reader(record, store, unfinished=True)
    names, lost = read.compared, read.race().dropped if len(read.compared) > 1 else {}
    return {names[index]: f"worse than {names[better]} after {seeds} seeds" for index, (better, seeds) in lost.items()}


class _Reader:
    """Reads what the runs of an experiment have measured.

    Args:
        unfinished: also compare variants whose further seeds wait.
    """

    def __init__(self, record: Record, store: Store, *, unfinished: bool = False):
        self.record, self.names = record, list(dict.fromkeys(cell.variant for cell in record.compared))
        self._matches: dict[str, set[str]] = {}
        self._scores: list[list[dict[str, pa.Table]]] = []
        self.variants: list[VariantResult] = []
        self.compared: list[str] = []  # names of those with a result
        made = _read_stage_runs(record, store)
        for name in self.names:
            cells = [cell for cell in record.compared if cell.variant == name]
            one, tables = _read_variant(name, cells, record.tasks, store, self._matches, made)
            self.variants.append(one)
            if tables and (unfinished or one.state != "waiting"):
                self.compared.append(name)
                self._scores.append(tables)

    def race(self) -> Race:
        """Return the comparisons that the finished seeds allow: those of all variants that are still in the race."""
        record = self.record
        race = Race(len(self.compared), record.seeds, record.confidence, racing=record.racing)
        for seeds in range(FIRST_LOOK, record.seeds + 1):
            if any(len(self._scores[index]) < seeds for index in race.active):
                break
            race.take(self.collect, seeds)
        return race

    def collect(self, variants: Sequence[int], seeds: int) -> list[list[TaskScores]]:
        """Return the scores of some variants with their first seeds, and those without matched images if there are any."""
        scores = [self._scores[index][:seeds] for index in variants]
        tasks = [_collect(task, metric, scores) for task, metric in self.record.tasks.items()]
        return [tasks, _without(tasks, scores[0][0], self._matches)]


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
    made: Mapping[tuple[str, str], StageRun],
) -> tuple[VariantResult, list[dict[str, pa.Table]]]:
    """Return what a variant measured, and its predictions by task for each finished seed; none if a seed has failed.

    Args:
        matches: test images in training data by task; those of this variant are added.
        made: the run of each stage that made a snapshot.
    """
    settings = tuple(one for one in cells[0].settings if not one.startswith(f"{SEED}="))
    lacking = next((cell for cell in cells if cell.state != "complete"), None)
    finished = [cell for cell in cells if cell.state == "complete"]
    state, error = (lacking.state, lacking.error) if lacking else ("complete", "")
    one = VariantResult(name, settings, state, error)
    if not finished or state not in ("complete", "ended", "waiting"):
        return one, []
    one.run_ids = [run_id for cell in finished for run_id in cell.run_ids]
    own_keys = {item for cell in finished for item in cell.keys.items()}
    if known := [made[item] for item in own_keys if item in made]:
        one.seconds = round(sum(run.seconds for run in known), 1)
        cpu = [run.cpu_seconds for run in known]
        one.cpu_seconds = None if None in cpu else round(sum(filter(None, cpu)), 1)
    found: list[dict[str, pa.Table]] = []
    own: set[tuple[str, str]] = set()
    for cell in finished:
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
        if any(part.name == MATCHES_PART for part in manifests[LAST].parts):
            grouped = group_by_task(read_table(store, manifests[LAST].path(MATCHES_PART)))
            own |= {(task, key) for task in tasks for key in grouped.get(task, ())}
        one.dataset, one.rows = cell.keys["pack"], manifests["pack"].counts.kept
        one.samples_seen = one.rows * int(manifests["train"].config.get("epochs", 1))
        counts = {stage: manifests[stage].counts.dropped for stage in PAIR_STAGES if stage in manifests}
        one.dropped = {f"{stage}: {reason}": n for stage, dropped in counts.items() for reason, n in dropped.items()}
    one.matched = len(own)
    for task, key in own:
        matches.setdefault(task, set()).add(key)
    return one, found


def _read_stage_runs(record: Record, store: Store) -> dict[tuple[str, str], StageRun]:
    """Return which runs of an experiment made its snapshots, by stage and key."""
    found: dict[tuple[str, str], StageRun] = {}
    for run_id in (one for cell in record.cells for one in cell.run_ids):
        if store.size(name := f"runs/{run_id}.json") is None:
            continue
        found |= {(one.stage, one.key): one for one in read_record(store, name).stages if one.state == "Completed"}
    return found


def _format_time(seconds: float | None) -> str:
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


def list_variants(result: Result) -> list[list[str]]:
    """Return the cells of a table of all variants: the name, the state, NUMBERS, the settings."""
    rows = []
    for one in result.variants:
        numbers = [""] * len(NUMBERS)
        if one.values:
            numbers = [format_percent(one.value), " ".join(map(format_percent, one.values))]
            numbers += [f"{one.rows:,}", f"{one.samples_seen:,}"]
            numbers += [_format_time(one.seconds), _format_time(one.cpu_seconds), f"{one.matched:,}"]
        rows.append([one.name, one.state, *numbers, ", ".join(one.settings) or "the base config"])
    return rows


def list_differences(result: Result) -> list[list[str]]:
    """Return the cells of a table of all comparisons: variants, difference, interval, p, verdict."""
    rows = []
    for one in result.comparisons:
        first, second = result.compared[one.first], result.compared[one.second]
        better, worse = (second, first) if one.difference > 0 else (first, second)
        verdict = f"{worse} is not the best" if worse in result.dropped else f"{better} is better"
        verdict = verdict if one.distinct else "not distinguishable"
        ends = f"{100 * one.low:+.2f} … {100 * one.high:+.2f}"
        rows.append([f"{second} − {first}", f"{100 * one.difference:+.2f}", ends, f"{one.p_adjusted:.3g}", verdict])
    return rows


def find_leader(
    comparisons: Sequence[Comparison], names: Sequence[str], lost: Sequence[str]
) -> tuple[str, list[Comparison]]:
    """Return the variant with the highest value, and the comparisons with others that may be as good.

    Args:
        lost: variants that lost a race.
    """
    ahead = {index: 0 for index, name in enumerate(names) if name not in lost}
    for one in comparisons:
        better = one.second if one.difference > 0 else one.first
        ahead[better] = ahead.get(better, -len(names)) + 1
    leader = max(ahead, key=lambda index: (ahead[index], -index))
    own = [one for one in comparisons if leader in (one.first, one.second) and not one.distinct]
    return names[leader], [one for one in own if names[one.first + one.second - leader] not in lost]


def _decide(result: Result) -> tuple[str, list[str], VariantResult | None]:
    """Return the decision, notes, and the variant that is better than all others."""
    notes = [
        f"{one.name} got no further seeds: {one.error}"
        if one.state == "ended"
        else f"{one.name} has no result: {one.error or one.state}"
        for one in result.variants
        if one.state != "complete"
    ]
    names, sure = result.compared, f"{100 * result.confidence:g}%"
    if len(names) < 2 or not result.comparisons:
        finished = f"{format_quantity(len(names), 'variant')} of {len(result.variants)} finished"
        return f"Nothing is decided: {finished}.", notes, None
    if _is_at_chance(result):
        return (
            "Nothing is decided: every variant is at chance on the suite, so it cannot distinguish them.",
            notes,
            None,
        )
    best, open_ = find_leader(result.comparisons, names, result.dropped)
    if not open_:
        decision = f"{best} is better than {_join(one for one in names if one != best)} ({sure} confidence)."
    else:
        others = _join(names[one.first + one.second - names.index(best)] for one in open_)
        decision = (
            f"{best} leads, and is not distinguishable from {others} at {sure} confidence. {_advise(open_, result)}"
        )
    winner = None if open_ else next(one for one in result.variants if one.name == best)
    if result.clean:
        clean, undecided = find_leader(result.clean, names, result.dropped)
        if clean != best or (undecided and not open_):
            matched = next(one.matched for one in result.variants if one.name == best)
            what = f"{clean} leads" if clean != best else f"{best} is not distinguishable from all others"
            decision += f" {best} is ahead by contamination: without the test images that are in training data, {what}."
            notes.append(f"{format_quantity(matched, 'test image')} are in the training data of {best}")
            winner = None
    return decision, notes, winner


def _is_at_chance(result: Result) -> bool:
    """Return whether no variant is above chance by more than two standard errors."""
    found = [one for one in result.variants if one.values]
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
