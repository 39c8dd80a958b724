"""The core's measures: zero-shot classification and retrieval. No torch here."""

from typing import TYPE_CHECKING, Any

from training.evaluation.measures import Measure

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from training.evaluation.encode import EvaluatedModel
    from training.evaluation.features import EncodedSet
    from training.evaluation.task import Task


class _Classification(Measure):
    metrics = ("top1", "top5", "mean_per_class", "macro_f1", "roc_auc", "worst_group_top1", "worst_group_top5")

    def run(
        self,
        loaded: "EvaluatedModel",
        task: "Task",
        encoded: "EncodedSet",
        threads: int | None,
        weights: "dict[tuple[str, ...], Tensor]",
    ) -> "tuple[dict[str, Any], pa.Table]":
        from training.evaluation.zero_shot import classify

        return classify(loaded, task, encoded, threads, weights)


class _Retrieval(Measure):
    metrics = ("mean_R@1",)

    def run(
        self,
        loaded: "EvaluatedModel",
        task: "Task",
        encoded: "EncodedSet",
        threads: int | None,
        weights: "dict[tuple[str, ...], Tensor]",
    ) -> "tuple[dict[str, Any], pa.Table]":
        from training.evaluation.retrieval import retrieve

        return retrieve(loaded, encoded, threads)


CLASSIFICATION, RETRIEVAL = _Classification(), _Retrieval()
