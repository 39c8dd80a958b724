"""The page of an experiment: the decision, a forest plot, and what each variant kept and dropped."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataops import plugins
from dataops.errors import writing
from dataops.snapshot import load_manifest
from dataops.store import Store
from plugins.experiments.decide import NUMBERS, Result, VariantResult, list_differences, list_variants
from plugins.experiments.ladder import FACTORS, list_forecasts
from tasks.reports.page import encode_page, render

TEMPLATE = Path(__file__).parent / "experiment.html"
WIDTH = 640
"""Width of a row of the plot, in its own units."""


@dataclass(frozen=True)
class Line:
    """One row of the forest plot, in its own units."""

    label: str
    low: float
    high: float
    at: float
    style: str
    """`better`, `worse` or `open`."""


@dataclass(frozen=True)
class Forest:
    """A forest plot: the differences of all variants from the first one."""

    base: str
    lines: list[Line]
    zero: float
    ends: tuple[str, str]
    """Labels of the left and the right end of the axis, in points."""


EXAMPLES = 5
"""Captions that are quoted of each reason."""


@dataclass(frozen=True)
class Change:
    """The pairs that only one of two datasets has, for one reason."""

    reason: str
    pairs: int
    captions: list[str]


def write_page(result: Result, store: Store, path: Path) -> None:
    """Write the page of an experiment as one HTML file."""
    with writing(path):
        path.write_bytes(encode_page(render_page(result, store)))


def render_page(result: Result, store: Store) -> str:
    """Return the page of an experiment."""
    reasons = sorted({reason for one in result.variants for reason in one.dropped})
    known = [one for one in result.variants if one.values]
    return render(
        TEMPLATE,
        title=f"Experiment {result.name}",
        result=result,
        forest=lay_out(result),
        adoption=describe_adoption(result),
        variant_columns=["variant", "state", *NUMBERS, "settings"],
        variants=list_variants(result),
        changes=list_changes(known, store),
        differences=list_differences(result),
        forecast_columns=[
            "variant",
            "metric",
            "samples of the largest training",
            *(f"with {one} times as many" for one in FACTORS),
        ],
        forecasts=list_forecasts(result.forecasts),
        dropped_columns=["stage: reason", *(one.name for one in known)],
        dropped=[[reason, *(f"{one.dropped.get(reason, 0):,}" for one in known)] for reason in reasons],
    )


def describe_adoption(result: Result) -> str:
    """Return the command of a run that adopts the result; empty where nothing is decided."""
    if not result.adopt:
        return ""
    base, *settings = map(shlex.quote, result.adopt)
    return " ".join(["pairmill run", base, *(f"--set {one}" for one in settings)])


def list_changes(variants: Sequence[VariantResult], store: Store) -> dict[str, list[Change]]:
    """Return how the dataset of each variant differs from that of the first one; none where no plugin compares datasets."""
    found = dict[str, list[Change]]()
    packs = {one.name: load_manifest(store, "pack", one.dataset) for one in variants}
    first = next(iter(packs.values()), None)
    for compare in plugins.load("differences").values():
        for name, pack in packs.items():
            if first is None or pack is None or pack.key == first.key:
                continue
            difference = compare(store, first, pack)
            found[name] = [
                Change(
                    f"{what} {stage}: {reason}" if stage else what,
                    count,
                    side.rows.filter(stage=stage, reason=reason)["caption"].unique(maintain_order=True).head(EXAMPLES),
                )
                for what, side in (
                    ("dropped by", difference.removed),
                    ("added:", difference.added),
                )
                for (stage, reason), count in side.why.items()
            ]
    return found


def lay_out(result: Result) -> Forest | None:
    """Return the forest plot; None if nothing is compared."""
    shown = [one for one in result.comparisons if one.first == 0]
    if not shown:
        return None
    most = max(max(abs(one.low), abs(one.high)) for one in shown) or 0.01

    def place(value: float) -> float:
        return round(WIDTH * (value / most + 1) / 2, 1)

    lines = [
        Line(
            f"{result.compared[one.second]} {100 * one.difference:+.2f}",
            place(one.low),
            place(one.high),
            place(one.difference),
            "open" if not one.distinct else "better" if one.difference > 0 else "worse",
        )
        for one in shown
    ]
    return Forest(result.compared[0], lines, place(0.0), (f"{-100 * most:+.2f}", f"{100 * most:+.2f}"))
