"""Whether a model is worse than the champion, by a paired test on the very same examples.

Two models that are right on the same share of a set may differ on many examples; what tells them apart are those that
only one of them has right. Under the hypothesis that neither is better, each such example is a coin's throw.

Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages",
Psychometrika 12, in its exact (binomial) form; one-sided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import polars as pl

from dataops.errors import PairmillError
from dataops.snapshot import Manifest, find, read_table
from dataops.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

RANKS = ("rank", "image_to_text_rank")
"""Columns of predictions that hold the rank of what is right, from 1."""


@dataclass(frozen=True)
class TaskComparison:
    """What one task says."""

    task: str
    only_champion: int
    """Examples that only the champion has right."""
    only_new: int
    both: int
    n: int

    @property
    def p_worse(self) -> float:
        """Probability of so many or more for the champion, were neither better."""
        return binomial_tail(self.only_champion, self.only_champion + self.only_new)

    def __str__(self) -> str:
        return (
            f"{self.task}: {self.only_new + self.both} of {self.n} right, champion {self.only_champion + self.both} "
            f"({self.only_champion} only the champion, {self.only_new} only this one, p {self.p_worse:.3g})"
        )


def binomial_tail(heads: int, throws: int) -> float:
    """Probability of at least so many heads of a fair coin."""
    return sum(comb(throws, k) for k in range(heads, throws + 1)) / (1 << throws)


def current(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """The version that has the alias, where there is one."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def refusals(
    store: Store, champion: "ModelVersion", evaluated: Manifest, tasks: Sequence[str], alpha: float
) -> tuple[list[str], list[str]]:
    """Why the champion stays, by task; and every comparison, for the record.

    A task that cannot be compared is a refusal: nobody could say that the model is not worse.
    """
    why, told = list[str](), list[str]()
    uri = f"{champion.name} version {champion.version}"
    key = champion.tags.get("snapshot.evaluate", "")
    try:
        theirs = find(store, "evaluate", key) if key else None
    except PairmillError:
        theirs = None
    if theirs is None:
        return [f"cannot be compared with {uri}: its evaluation {key or '(unknown)'} is not in {store.uri}"], []
    for task in tasks:
        found = compare(store, theirs, evaluated, task)
        if isinstance(found, str):
            why.append(f"{task} cannot be compared with {uri}: {found}")
            continue
        told.append(str(found))
        if found.p_worse < alpha:
            why.append(f"worse than {uri} on {found}, alpha {alpha:g}")
    return why, told


def compare(store: Store, champion: Manifest, new: Manifest, task: str) -> TaskComparison | str:
    """Both models on the examples of a task; or why that cannot be."""
    right: list[pl.DataFrame] = []
    for manifest in (champion, new):
        if not manifest.named(f"predictions-{task}.parquet"):
            return f"evaluate/{manifest.key} has no such task"
        frame = pl.DataFrame(pl.from_arrow(read_table(store, manifest.path(f"predictions-{task}.parquet"))))
        if (column := next((name for name in RANKS if name in frame.columns), None)) is None:
            return f"evaluate/{manifest.key} has no ranks"
        right.append(frame.select("key", right=(pl.col(column) == 1).fill_null(False)))
    if sorted(right[0]["key"]) != sorted(right[1]["key"]) or right[0]["key"].n_unique() != right[0].height:
        return "they saw other examples"
    both = right[0].join(right[1], on="key", suffix="_new")
    only_champion = both.filter(pl.col("right") & ~pl.col("right_new")).height
    only_new = both.filter(~pl.col("right") & pl.col("right_new")).height
    return TaskComparison(
        task, only_champion, only_new, both.filter(pl.col("right") & pl.col("right_new")).height, both.height
    )
