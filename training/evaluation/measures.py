"""The seams of measures: what is computed for each kind of task, and what more on labelled examples. No torch here.

pairmill.measures    a `Measure` for each kind of task
pairmill.protocols   a `Protocol`, which `protocols` of a task names
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from training.evaluation.encode import EvaluatedModel
    from training.evaluation.features import EncodedSet, Examples
    from training.evaluation.task import Task


class Measure:
    """The evaluation of one kind of task."""

    metrics: tuple[str, ...]
    """Metrics that may stand for a set in averages; the first is the default."""

    def run(
        self,
        loaded: "EvaluatedModel",
        task: "Task",
        encoded: "EncodedSet",
        threads: int | None,
        weights: "dict[tuple[str, ...], Tensor]",
    ) -> "tuple[dict[str, Any], pa.Table]":
        """Return the task's entry of metrics.json and its predictions.

        Args:
            weights: features of classes by prompts and names, which tasks share.
        """
        raise NotImplementedError


class Protocol:
    """A measurement on labelled features besides zero-shot transfer."""

    order: int = 100
    """Place among the protocols of a task."""

    def run(
        self, train: "Examples", validation: "Examples | None", test: "Examples", classes: int, unreadable: int
    ) -> tuple[Any, dict[str, Any]]:
        """Return an entry of the task's result under the protocol's name, and further metrics by name.

        Args:
            unreadable: test images without features; they count as wrong.
        """
        raise NotImplementedError
