"""Read the ladder of an experiment, and say what more compute would give. No torch."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from math import log
from statistics import fmean
from typing import TYPE_CHECKING, Any

from dataops.errors import ConfigError
from dataops.facts import EvaluateFacts, TrainFacts
from dataops.formatting import format_percent, format_quantity, format_seconds
from dataops.snapshot import find_manifest
from dataops.store import Store, open_store
from plugins.experiments.config import LAST, describe_kind
from plugins.experiments.forecast import Curve, Expected, find_crossing, fit_curve, is_determined
from plugins.experiments.record import Record, load_record

if TYPE_CHECKING:
    from flows.config import RunConfig
    from flows.planning.plan import RunPlan

FACTORS = (2, 4, 10)
"""Multiples of the largest training that the page shows."""
HOLDOUT_LOSS = "loss of held-out pairs"
LOSS_PAIRS = 64
"""Pairs of a batch of that loss (training/loop/interim_evaluation.py): chance is the logarithm of their number."""
TARGET = re.compile(
    r"\s*+(?P<task>[^\s=/]++)(?:[\s/]++(?P<metric>[^\s=]++))?\s*+=\s*+(?P<value>[0-9.]++)\s*+(?P<percent>%?)\s*+"
)


@dataclass(frozen=True)
class Points:
    """What the trainings of a variant measured in one metric."""

    metric: str
    chance: float
    bound: float
    """The best value: 0 for a loss."""
    pairs: float
    """Pairs of the dataset."""
    samples: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def fit(self) -> Curve | None:
        return fit_curve(self.samples, self.values, chance=self.chance, bound=self.bound, pairs=self.pairs)


@dataclass(frozen=True)
class Forecast:
    """What more compute would give a variant."""

    variant: str
    largest: float
    """Samples of its largest training."""
    expected: dict[int, Expected | None]
    """The metric by the multiple of `largest`; None where the ladder does not determine it."""
    metric: str
    """The deciding one, or HOLDOUT_LOSS."""


def read_points(record: Record, store: Store, variant: str) -> dict[str, Points]:
    """Return what the finished trainings of a variant measured, by metric: the deciding one, all as TASK/METRIC, and the
    loss of held-out pairs where there are any.
    """
    found: dict[str, Points] = {}
    for cell in record.cells:
        if cell.variant != variant or cell.state != "complete":
            continue
        manifests = [find_manifest(store, stage, cell.keys[stage]) for stage in ("pack", "train", LAST)]
        if (pack := manifests[0]) is None or (train := manifests[1]) is None or (evaluated := manifests[2]) is None:
            continue
        samples = float(pack.counts.kept * int(train.config.get("epochs", 1)))
        tasks = EvaluateFacts.of(evaluated).metrics
        every = {f"{task}/{metric}": [one] for task, facts in tasks.items() for metric, one in facts["metrics"].items()}
        every[record.metric] = [tasks[task]["metrics"][metric] for task, metric in record.tasks.items()]
        measured = {
            metric: (fmean([one["value"] for one in values]), fmean([one["chance"] or 0.0 for one in values]), 1.0)
            for metric, values in every.items()
        }
        if (holdout := TrainFacts.of(train).holdout) is not None and holdout.curve:
            step = holdout.kept_step
            kept = min(holdout.curve, key=lambda row, step=step: abs(row["step"] - step))
            measured[HOLDOUT_LOSS] = kept["holdout_loss"], log(min(holdout.pairs, LOSS_PAIRS)), 0.0
        for metric, (value, chance, bound) in measured.items():
            points = found.setdefault(metric, Points(metric, chance, bound, pack.counts.kept))
            points.samples.append(samples)
            points.values.append(value)
    return found


def read_forecasts(record: Record, store: Store, variants: Sequence[str]) -> tuple[list[Forecast], list[str]]:
    """Return the forecast of each variant, and sentences: what is not determined, and where curves cross."""
    forecasts, curves = [], dict[str, Curve]()
    notes = [
        f"The forecast of {cell.variant} lacks its trainings from {cell.samples:,.0f} samples with seed {cell.seed} on: "
        f"{cell.error}"
        for cell in record.cells
        if cell.samples and cell.state == "failed"
    ]
    of_variants = {variant: read_points(record, store, variant) for variant in variants}
    for metric, (variant, found) in product((record.metric, HOLDOUT_LOSS), of_variants.items()):
        if (points := found.get(metric)) is None:
            continue
        curve, largest = points.fit(), max(points.samples)
        expected = {factor: _expect(curve, points, factor * largest, record) for factor in FACTORS}
        forecasts.append(Forecast(variant, largest, expected, metric))
        if metric == HOLDOUT_LOSS:
            continue
        if curve is None or expected[FACTORS[0]] is None:
            scales = format_quantity(len(set(points.samples)), "scale")
            notes.append(f"The data do not determine a forecast of {variant}: {scales}, and too much noise, or no rise")
        else:
            curves[variant] = curve
    for first, second in combinations(curves, 2):
        if (crossing := find_crossing(curves[first], curves[second], record.confidence)) is not None:
            start = max(curves[first].largest, curves[second].largest)
            leads = curves[first].draw(start).mean() > curves[second].draw(start).mean()
            ahead, behind = (second, first) if leads else (first, second)
            notes.append(
                f"{ahead} is expected to be better than {behind} from {format_samples(crossing)} samples seen on"
            )
    return forecasts, notes


def _expect(curve: Curve | None, points: Points, samples: float, record: Record) -> Expected | None:
    expected = curve and curve.expect(samples, confidence=record.confidence)
    return expected if expected and is_determined(expected, points.chance) else None


def format_samples(found: Expected) -> str:
    """Return a number of samples with its interval; an end that nothing determines is left open."""
    high = "no upper bound" if found.high == float("inf") else f"{found.high:.2g}"
    return f"{found.value:.2g} ({found.low:.2g} to {high})"


def format_expected(found: Expected | None, metric: str = "") -> str:
    """Return a metric with its interval."""
    if found is None:
        return "not determined"
    show = "{:.3f}".format if metric == HOLDOUT_LOSS else format_percent
    return f"{show(found.value)} ({show(found.low)} to {show(found.high)})"


def list_forecasts(forecasts: Sequence[Forecast]) -> list[list[str]]:
    """Return the cells of a table of forecasts: variant, metric, largest training, and the metric by factor."""
    return [
        [one.variant, one.metric, f"{one.largest:,.0f}"]
        + [format_expected(one.expected[factor], one.metric) for factor in FACTORS]
        for one in forecasts
    ]


def describe_plan(config: "RunConfig", planned: "RunPlan", target: str | None) -> list[dict[str, Any]]:
    """Return what a planned run is expected to measure, and what reaches a target, by experiments of its kind of data.

    Raises: ConfigError if the target cannot be read, is not above chance, or names a metric that these have not measured.
    """
    wanted = parse_target(target) if target is not None else None
    deciding, points = next(_find_points(config, open_store(planned.store)), ("", {}))
    if not points:
        return []
    rows = next((one.estimate.kept for one in planned.stages if one.stage == "pack"), None)
    train = next((one for one in planned.stages if one.stage == "train"), None)
    samples = rows * config.train.epochs if rows else None
    if wanted is None:
        return [_describe_expected(points[deciding], samples, rows)] if samples and rows else []
    name, value = wanted
    one = next((points[each] for each in points if each == name or each.partition("/")[0] == name), None)
    if one is None:
        raise ConfigError(
            f"--target: no experiment of this kind of data measured {name}; there are "
            f"{', '.join(one for one in points if one != HOLDOUT_LOSS)}"
        )
    if value <= one.chance:
        raise ConfigError(
            f"--target: {format_percent(value)} is not above chance, which is {format_percent(one.chance)}"
        )
    curve = _fit(one, rows)
    reached = curve.find_samples(value) if curve else None
    goal = f"{one.metric} = {format_percent(value)}"
    if reached is None:
        what = (
            "the ladder does not determine it" if curve is None else "most curves that agree with the ladder never do"
        )
        return [{"target": one.metric, "value": value, "text": f"{goal}: no forecast; {what}"}]
    text = f"{goal}: {format_samples(reached)} samples seen"
    if train and train.estimate.seconds and samples:
        text += f", ~{format_seconds(train.estimate.seconds * reached.value / samples)} of training"
    ends = {
        "samples": reached.value,
        "low": reached.low,
        "high": None if reached.high == float("inf") else reached.high,
    }
    return [{"target": one.metric, "value": value, **ends, "text": text}]


def _fit(one: Points, rows: float | None) -> Curve | None:
    """Return the curve of a ladder for a run with another number of pairs: a larger dataset repeats them less."""
    curve = one.fit()
    return replace(curve, pairs=float(rows)) if curve and rows else curve


def _describe_expected(one: Points, samples: float, rows: float) -> dict[str, Any]:
    curve = _fit(one, rows)
    found = curve.expect(samples) if curve else None
    found = found if found and is_determined(found, one.chance) else None
    text = f"expected {one.metric} with {samples:.3g} samples seen: {format_expected(found)}"
    values = {"value": found.value, "low": found.low, "high": found.high} if found else {}
    return {"metric": one.metric, "samples": samples, **values, "text": text}


def _find_points(config: "RunConfig", store: Store) -> Iterator[tuple[str, dict[str, Points]]]:
    """Yield what experiments with a ladder measured with a kind of data and training, after their deciding metric."""
    kind = describe_kind(config)
    for name in sorted(store.names("experiments")):
        record = load_record(name.removeprefix("experiments/").removesuffix(".json"), store)
        if record is None or len(record.compared) == len(record.cells):
            continue
        for variant in (variant for variant, one in record.kinds.items() if one == kind):
            if points := read_points(record, store, variant):
                yield record.metric, points


def parse_target(target: str) -> tuple[str, float]:
    """Return the metric of `TASK METRIC = VALUE`, as TASK/METRIC or `mean`, and the value as a share."""
    found = TARGET.fullmatch(target)
    try:
        value = float(found["value"]) / (100 if found["percent"] else 1) if found else 2.0
    except ValueError:
        value = 2.0
    if found is None or not 0 < value < 1:
        raise ConfigError(f'--target {target!r}: write "TASK METRIC = VALUE" with a value such as 60% or 0.6')
    return (f"{found['task']}/{found['metric']}" if found["metric"] else found["task"]), value
