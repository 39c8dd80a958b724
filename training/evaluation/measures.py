"""The seams of measures: what is computed for each kind of task, and what more on labelled examples. No torch here.

pairmill.measures    a `Measure` for each kind of task; the core has zero-shot classification and retrieval
pairmill.protocols   a `Protocol`, which `protocols` of a task names
"""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


def current_name(metric: str) -> str:
    """Return the name of a metric, also of release 0.2, which wrote R@1: MLflow takes no @ in a name."""
    return metric.replace("@", "_at_")


@dataclass(frozen=True)
class Measure:
    """The evaluation of one kind of task."""

    metrics: tuple[str, ...]
    """Metrics that may stand for a set in averages; the first is the default."""
    function: str
    """`module:function`, which returns the task's entry of metrics.json and its predictions (a pyarrow.Table)."""
    inputs: tuple[str, ...] = ("loaded", "task", "encoded", "threads", "weights")
    """What it takes, in order: the EvaluatedModel, the Task, its EncodedSet, a number of threads or None, and the features
    of classes by prompts and names, which tasks share."""
    page: str | None = None
    """`module:function` of the Task, its result and the rows of its predictions: a Section of the evaluation's page."""

    def run(self, **inputs: object) -> tuple[dict[str, Any], Any]:
        """Return the entry and the predictions of a task; all inputs are given by name."""
        return resolve_name(self.function)(*(inputs[name] for name in self.inputs))


@dataclass(frozen=True)
class Protocol:
    """A measurement on labelled features besides zero-shot transfer."""

    function: str
    """`module:function` of training, validation (or None) and test Examples, the number of classes, and the labels of test
    images without features, which count as wrong. It returns an entry of the task's result under the protocol's name."""
    figures: Callable[[Any], dict[str, Any]]
    """Returns further metrics by name, of such an entry."""
    page: str
    """`module:function` of a task's result, which returns a Section of the evaluation's page."""
    order: int = 100
    """Place among the protocols of a task."""

    def run(self, *inputs: object) -> tuple[Any, dict[str, Any]]:
        """Return the entry and the further metrics."""
        found = resolve_name(self.function)(*inputs)
        return found, self.figures(found)


CLASSIFICATION = Measure(
    ("top1", "top5", "mean_per_class", "macro_f1", "roc_auc", "worst_group_top1", "worst_group_top5"),
    "training.evaluation.zero_shot:classify",
)
RETRIEVAL = Measure(("mean_R_at_1",), "training.evaluation.retrieval:retrieve", ("loaded", "encoded", "threads"))
