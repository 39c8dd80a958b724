"""The gate: it compares a model's metrics with their floors, and its predictions with those of the champion.

Without floors and without a comparison there is no gate, and nothing is refused. Such a version
gets the alias if it is above chance on a task, and not worse than the champion; otherwise it is a
candidate, as is one that was not evaluated.

The champion is the version that has the alias. Two models that are right on the same share of a set
may differ on many examples, so the test is paired: it counts the examples that only one of the two
has right. If neither model is better, each of these is equally likely to belong to either.

Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages",
Psychometrika 12, in its exact (binomial) form; one-sided.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import comb
from typing import TYPE_CHECKING, Any

import polars as pl

from dataops.errors import ConfigError, PairmillError
from dataops.escaping import escape_markdown
from dataops.formatting import format_quantity
from dataops.snapshot import Manifest, find_manifest, read_table
from dataops.store import Store
from tasks.register.config import NO_GATE, NOT_EVALUATED, describe_gate
from tasks.tracking import client as tracking
from training.evaluation.measures import current_name

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

RANKS = ("rank", "image_to_text_rank", "is_right")
"""Columns of predictions that hold the rank of the correct answer, from 1, or whether the answer is right."""


ONLY_CANDIDATE = ", so it is only a candidate"
"""End of a verdict on a version that does not get the alias of the config; a user may move it nevertheless."""


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on a model."""

    refusals: tuple[str, ...]
    comparisons: tuple[str, ...] = ()
    """One sentence for each comparison with the champion."""
    ungated: str = ""
    """What is known of a model without a gate; empty if there is one."""

    @classmethod
    def parse(cls, tag: str) -> "Verdict":
        """Return the verdict that the tag of a version holds."""
        if tag.startswith(NO_GATE):
            return cls((), ungated=tag.removeprefix(NO_GATE))
        return cls(()) if tag == "passed" else cls((tag.removeprefix("refused: "),))

    @property
    def passed(self) -> bool:
        """Return whether nothing is refused: no metric is below its floor, and the model is not worse than the champion."""
        return not self.refusals

    @property
    def gets_alias(self) -> bool:
        """Return whether the version gets the alias of the config, and is not only a candidate."""
        return self.passed and not self.ungated.endswith(ONLY_CANDIDATE)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return describe_gate(str(self))

    def __str__(self) -> str:
        if self.refusals:
            return f"refused: {'; '.join(self.refusals)}"
        return f"{NO_GATE}{self.ungated}" if self.ungated else "passed"


def judge_without_gate(
    metrics: Mapping[str, Mapping[str, Any]],
    store: Store,
    champion: "ModelVersion | None",
    evaluated: Manifest,
    alpha: float,
) -> Verdict:
    """Return the verdict on a model for which the config names no floor, and that was compared with no champion.

    A task is above chance if the interval of one of its metrics is. The model is compared with the
    champion on each task that both were evaluated on.

    Args:
        metrics: the content of the evaluation's metrics.json.
        evaluated: the model's evaluate snapshot.
        alpha: significance level of the comparison.
    """
    if not metrics:
        return Verdict((), ungated=f"{NOT_EVALUATED}{ONLY_CANDIDATE}")
    above = sum(any(map(_is_above_chance, task["metrics"].values())) for task in metrics.values())
    finding = f"above chance on {above} of {format_quantity(len(metrics), 'task')}"
    if not above:
        return Verdict((), ungated=finding + ONLY_CANDIDATE)
    if champion is None:
        return Verdict((), ungated=finding)
    name, theirs = f"{champion.name} version {champion.version}", find_evaluation(store, champion)
    found = [compare_on_task(store, theirs, evaluated, task) for task in metrics] if theirs is not None else []
    compared = [comparison for comparison in found if isinstance(comparison, TaskComparison)]
    if not compared:
        return Verdict((), ungated=f"{finding}, cannot be compared with {name}{ONLY_CANDIDATE}")
    worse = [comparison.task for comparison in compared if comparison.p_worse < alpha]
    result = f"worse than {name} on {', '.join(worse)}{ONLY_CANDIDATE}" if worse else f"not worse than {name}"
    return Verdict((), tuple(map(str, compared)), f"{finding}, {result}")


def _is_above_chance(metric: Mapping[str, Any]) -> bool:
    low, chance = metric.get("low"), metric.get("chance")
    return low is not None and chance is not None and low > chance


def check_floors(floors: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """Compare each metric with its floor; NaN and null are below every floor.

    Raises: ConfigError if a floor names a metric that the suite does not have.
    """
    values = {row["key"]: row["value"] for row in rows}
    keys = {floor: current_name(floor) for floor in floors}
    unknown = sorted(floor for floor, key in keys.items() if key not in values)
    if unknown:
        raise ConfigError(
            f"register.floors: {', '.join(unknown)}: no such metric; there are {', '.join(sorted(values))}"
        )
    refusals = []
    for floor, key in sorted(keys.items()):
        value = values[key]
        if value is None or not value >= floors[floor]:
            refusals.append(f"{floor} is {'no number' if value is None else f'{value:.4g}'}, floor {floors[floor]:g}")
    return Verdict(tuple(refusals))


@dataclass(frozen=True)
class TaskComparison:
    """Numbers of examples of one task that the champion and the new model have right."""

    task: str
    only_champion: int
    only_new: int
    both: int
    n: int
    """Number of all examples."""

    @property
    def p_worse(self) -> float:
        """Probability of at least this many examples for the champion alone, if neither model is better."""
        return binomial_tail(self.only_champion, self.only_champion + self.only_new)

    def __str__(self) -> str:
        return (
            f"{self.task}: {self.only_new + self.both} of {self.n} right, champion {self.only_champion + self.both} "
            f"({self.only_champion} only the champion, {self.only_new} only this one, p {self.p_worse:.3g})"
        )


def binomial_tail(successes: int, trials: int) -> float:
    """Return the probability of at least this many successes in trials of probability 1/2."""
    return sum(comb(trials, k) for k in range(successes, trials + 1)) / (1 << trials)


def compare_with_champion(
    store: Store, champion: "ModelVersion", evaluated: Manifest, tasks: Sequence[str], alpha: float
) -> Verdict:
    """Compare a model with the champion on each task. A task that cannot be compared is refused.

    Args:
        evaluated: the model's evaluate snapshot.
        alpha: significance level of the test.
    """
    refusals, comparisons = list[str](), list[str]()
    name = f"{champion.name} version {champion.version}"
    key = champion.tags.get("snapshot.evaluate", "")
    if (theirs := find_evaluation(store, champion)) is None:
        return Verdict((f"cannot be compared with {name}: its evaluation {key or '(unknown)'} is not in {store.uri}",))
    for task in tasks:
        compared = compare_on_task(store, theirs, evaluated, task)
        if isinstance(compared, str):
            refusals.append(f"{task} cannot be compared with {name}: {compared}")
            continue
        comparisons.append(str(compared))
        if compared.p_worse < alpha:
            refusals.append(f"worse than {name} on {compared}, alpha {alpha:g}")
    return Verdict(tuple(refusals), tuple(comparisons))


def find_evaluation(store: Store, version: "ModelVersion") -> Manifest | None:
    """Return the evaluate snapshot that a version names; None if it is not in the store, or unreadable."""
    key = version.tags.get("snapshot.evaluate", "")
    try:
        return find_manifest(store, "evaluate", key) if key else None
    except PairmillError:
        return None


def compare_on_task(store: Store, champion: Manifest, new: Manifest, task: str) -> TaskComparison | str:
    """Compare two evaluate snapshots on the examples of a task; return the reason if that is impossible."""
    answers: list[pl.DataFrame] = []
    for manifest in (champion, new):
        if not manifest.named(f"predictions-{task}.parquet"):
            return f"evaluate/{manifest.key} has no such task"
        frame = pl.DataFrame(pl.from_arrow(read_table(store, manifest.path(f"predictions-{task}.parquet"))))
        if (column := next((name for name in RANKS if name in frame.columns), None)) is None:
            return f"evaluate/{manifest.key} has no ranks"
        answers.append(frame.select("key", right=(pl.col(column) == 1).fill_null(False)))
    if sorted(answers[0]["key"]) != sorted(answers[1]["key"]) or answers[0]["key"].n_unique() != answers[0].height:
        return "they were evaluated on different examples"
    joined = answers[0].join(answers[1], on="key", suffix="_new")
    champion_right, new_right = joined["right"], joined["right_new"]
    only_champion, only_new = int((champion_right & ~new_right).sum()), int((~champion_right & new_right).sum())
    return TaskComparison(task, only_champion, only_new, int((champion_right & new_right).sum()), joined.height)


if TYPE_CHECKING:
    from mlflow import MlflowClient

AUDIT = "audit."
"""Prefix of the tags that are the audit trail."""
MOVE = re.compile(r"(?P<alias>\S+): (?P<before>none|\d+) to (?P<after>\d+), by (?P<by>.*?): (?P<why>.*)", re.DOTALL)
SHOWN_MOVES = 5
"""Number of moves in the description of a registered model."""
HEADING = "Newest moves of its aliases"
"""Begins the part of a description that each move replaces; the text before it is the user's."""


@dataclass(frozen=True)
class AliasMove:
    """A move of an alias from one version to another; `before` is None if no version had it."""

    alias: str
    before: str | None
    after: str
    by: str
    why: str

    def __str__(self) -> str:
        return f"{self.alias}: {self.before or 'none'} to {self.after}, by {self.by}: {self.why}"


def move_alias(client: "MlflowClient", name: str, alias: str, after: str, by: str, why: str) -> AliasMove | None:
    """Set the alias and return the move; None if the version has the alias already.

    The tag is written first: a killed call may leave a tag without a move, but never a move without a tag.
    """
    holder = tracking.find_aliased_version(client, name, alias)
    before = None if holder is None else str(holder.version)
    if before == after:
        return None
    move = AliasMove(alias, before, after, by, why)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(2)}"
    client.set_registered_model_tag(name, f"{AUDIT}{stamp}", str(move)[: tracking.TAG_LENGTH])
    client.set_registered_model_alias(name, alias, after)
    describe_model(client, name)
    return move


def describe_model(client: "MlflowClient", name: str) -> None:
    """Write the newest moves of its aliases into a registered model's description, unless a user replaced all of it."""
    model = client.get_registered_model(name)
    shown = model.description or ""
    if shown and HEADING not in shown:
        return
    intro = shown.partition(HEADING)[0].strip() or (
        "CLIP models made by pairmill. Each version's page has its results, data, config and code. "
        f"The whole trail: pairmill promote {name}"
    )
    moves = [f"- {_format_time(move['time'])}, {escape_markdown(_describe(move))}" for move in parse_trail(model.tags)]
    text = f"{intro}\n\n{HEADING}:\n\n" + "\n".join(moves[: -SHOWN_MOVES - 1 : -1])
    if text != shown:
        client.update_registered_model(name, text)


def _format_time(time: str) -> str:
    """Return the time of a move to the minute, in UTC."""
    parsed = re.match(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)", time)
    return "{}-{}-{} {}:{} UTC".format(*parsed.groups()) if parsed else time


def _describe(move: Mapping[str, Any]) -> str:
    return (
        str(AliasMove(**{f: move[f] for f in ("alias", "before", "after", "by", "why")}))
        if "by" in move
        else move["why"]
    )


def parse_trail(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the moves in the tags of a model, oldest first; a tag that is no move has only `time` and `why`."""
    moves: list[dict[str, Any]] = []
    for tag in sorted(tag for tag in tags if tag.startswith(AUDIT)):
        time, text = tag.removeprefix(AUDIT).partition("-")[0], tags[tag]
        if found := MOVE.fullmatch(text):
            before = None if found["before"] == "none" else found["before"]
            moves.append({"time": time, **found.groupdict(), "before": before})
        else:
            moves.append({"time": time, "why": text})
    return moves
