"""Measures of public suites: average precision, association, linear probe, few-shot classification. No torch here."""

from typing import TYPE_CHECKING, Any

from training.evaluation.measures import Measure, Protocol

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from training.evaluation.encode import EvaluatedModel
    from training.evaluation.features import EncodedSet, Examples
    from training.evaluation.task import Task


class _Multilabel(Measure):
    metrics = ("mean_average_precision", "mean_average_precision_11_points")

    def run(
        self,
        loaded: "EvaluatedModel",
        task: "Task",
        encoded: "EncodedSet",
        threads: int | None,
        weights: "dict[tuple[str, ...], Tensor]",
    ) -> "tuple[dict[str, Any], pa.Table]":
        from plugins.evaluation_sets.multilabel import classify_multilabel

        return classify_multilabel(loaded, task, encoded, threads, weights)


class _Association(Measure):
    metrics = ("jaccard",)

    def run(
        self,
        loaded: "EvaluatedModel",
        task: "Task",
        encoded: "EncodedSet",
        threads: int | None,
        weights: "dict[tuple[str, ...], Tensor]",
    ) -> "tuple[dict[str, Any], pa.Table]":
        from plugins.evaluation_sets.association import associate

        return associate(loaded, task, encoded, threads)


class _LinearProbe(Protocol):
    order = 1

    def run(
        self, train: "Examples", validation: "Examples | None", test: "Examples", classes: int, unreadable: int
    ) -> tuple[Any, dict[str, Any]]:
        from plugins.evaluation_sets.linear_probe import probe

        found = probe(train, validation, test, classes, unreadable)
        return found, {f"linear_probe_{name}": found[name] for name in ("top1", "mean_per_class")}


class _FewShot(Protocol):
    order = 2

    def run(
        self, train: "Examples", validation: "Examples | None", test: "Examples", classes: int, unreadable: int
    ) -> tuple[Any, dict[str, Any]]:
        from plugins.evaluation_sets.linear_probe import evaluate_few_shot

        found = evaluate_few_shot(train, validation, test, classes, unreadable)
        return found, {f"few_shot_{each['shots']}_top1": each["top1"] for each in found}


MULTILABEL, ASSOCIATION, LINEAR_PROBE, FEW_SHOT = _Multilabel(), _Association(), _LinearProbe(), _FewShot()
