"""Zero-shot classification: a class is the mean of its prompts' text features, an image gets the nearest class.

Shape suffixes: B images of a batch, C classes, T templates, K the best, D embed_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from dataops.errors import ContractError
from training.encode import Evaluated, ImageBatch, encode_images, encode_texts
from training.eval_sets import EvalSet
from training.intervals import proportion

BEST = 5
TEXTS_AT_ONCE = 65_536
"""Prompts whose features are held together: bounds memory at any number of classes."""

PREDICTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("predicted", pa.int32()),
        ("predicted_name", pa.string()),
        ("rank", pa.int32()),
        ("top5", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("status", pa.string()),
        ("error_message", pa.string()),
    ]
)
"""A row an image, in the order of the set. `rank` of the true label from 1; `scores` are the cosines of `top5`; all of them
null where `status` is `unreadable` (else `ok`)."""


@torch.inference_mode()
def class_weights(
    loaded: Evaluated, class_names: Sequence[str], templates: Sequence[str], threads: int | None = None
) -> Tensor:
    """(C, D): per class the mean of the unit-norm features of its prompts, brought back to unit norm.

    Args:
        templates: with `{c}` in the place of the class.

    Source: Radford et al. 2021, section 3.1.4 ("we construct the ensemble over the embedding space").
    """
    step = max(1, TEXTS_AT_ONCE // len(templates))
    weights = []
    for start in range(0, len(class_names), step):
        names = class_names[start : start + step]
        # replace, not str.format: a hostile template could walk attributes, a class name may hold braces
        prompts = [template.replace("{c}", name) for name in names for template in templates]
        features_CTD = encode_texts(loaded, prompts, threads).view(len(names), len(templates), -1)
        weights.append(F.normalize(features_CTD.mean(dim=1), dim=-1))
    return torch.cat(weights)


def true_ranks(scores_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Rank of the true label, from 1; equal scores rank in the order of their columns, so a constant model gets no gift."""
    true_B1 = scores_BC.gather(1, labels_B[:, None])
    before_C = torch.arange(scores_BC.shape[1], device=scores_BC.device)
    ahead_BC = (scores_BC > true_B1) | ((scores_BC == true_B1) & (before_C < labels_B[:, None]))
    return ahead_BC.sum(dim=1) + 1


def best(scores_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best (scores, columns), by falling score and then by column: `torch.topk` leaves the order of ties open."""
    k = min(k, scores_BC.shape[1])
    values_BK, columns_BK = scores_BC.topk(k, dim=1)
    tied = (scores_BC >= values_BK[:, -1:]).sum(dim=1) > k
    if tied.any():
        values_BK[tied], columns_BK[tied] = (
            t[:, :k] for t in scores_BC[tied].sort(dim=1, descending=True, stable=True)
        )
    columns_BK, order_BK = columns_BK.sort(dim=1)
    values_BK, by_value_BK = values_BK.gather(1, order_BK).sort(dim=1, descending=True, stable=True)
    return values_BK, columns_BK.gather(1, by_value_BK)


@dataclass
class _Tally:
    """Rows of the predictions and the counts that the metrics need."""

    class_names: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, batch: ImageBatch, weights_CD: Tensor) -> None:
        labels = [s.label for s, e in zip(batch.samples, batch.errors, strict=True) if e is None]
        answers: list[dict[str, Any]] = []
        if labels:
            scores_BC = batch.features_RD @ weights_CD.T
            ranks = true_ranks(scores_BC, torch.tensor(labels, device=scores_BC.device)).tolist()
            values_BK, columns_BK = best(scores_BC, BEST)
            for rank, columns, values in zip(ranks, columns_BK.tolist(), values_BK.tolist(), strict=True):
                predicted = {"predicted": columns[0], "predicted_name": self.class_names[columns[0]]}
                answers.append({**predicted, "rank": rank, "top5": columns, "scores": values, "status": "ok"})
        remaining = iter(answers)
        for sample, error in zip(batch.samples, batch.errors, strict=True):
            known = {"key": sample.key, "label": sample.label, "label_name": self.class_names[sample.label]}
            answer = {"status": "unreadable", "error_message": error} if error is not None else next(remaining)
            self.rows.append({**known, **answer})

    def result(self, templates: int) -> dict[str, Any]:
        """The task's entry of metrics.json. An unreadable image counts as wrong."""
        classes, n = len(self.class_names), len(self.rows)
        right = {k: sum(row.get("rank", classes + 1) <= k for row in self.rows) for k in (1, BEST)}
        return {
            "kind": "classification",
            "n": n,
            "classes": classes,
            "templates": templates,
            "unreadable": sum(row["status"] == "unreadable" for row in self.rows),
            "metrics": {
                "top1": proportion(right[1], n, 1 / classes),
                "top5": proportion(right[BEST], n, min(1.0, BEST / classes)),
                "mean_per_class": self._mean_per_class(),
            },
        }

    def _mean_per_class(self) -> dict[str, float | None]:
        """Mean over the classes that have images of the share of them that is right.

        No interval: with one image a class, as in the demo, resampling within classes would claim a width of zero.
        """
        seen: dict[int, int] = {}
        right: dict[int, int] = {}
        for row in self.rows:
            seen[row["label"]] = seen.get(row["label"], 0) + 1
            right[row["label"]] = right.get(row["label"], 0) + (row.get("rank") == 1)
        value = sum(right[label] / seen[label] for label in sorted(seen)) / len(seen)
        return {"value": value, "low": None, "high": None, "chance": 1 / len(self.class_names)}


def classify(
    loaded: Evaluated,
    data: EvalSet,
    batch_size: int,
    threads: int | None = None,
    cache: dict[tuple[str, ...], Tensor] | None = None,
) -> tuple[dict[str, Any], pa.Table]:
    """Classify every image of a set.

    Args:
        cache: class weights by prompts, kept by the caller for tasks that share their classes.

    Returns: the task's entry of metrics.json and its predictions.
    Raises: ContractError where the set is damaged, no image can be decoded, or features are not finite.
    """
    cache = {} if cache is None else cache
    class_names, templates = data.class_names(), data.templates()
    prompts = (*templates, "", *class_names)  # no template is empty, so the parts cannot be confused
    if prompts not in cache:
        cache[prompts] = class_weights(loaded, class_names, templates, threads)
    tally = _Tally(class_names)
    for batch in encode_images(loaded, data.samples(), batch_size, threads):
        tally.add(batch, cache[prompts])
    result = tally.result(len(templates))
    if result["unreadable"] == result["n"]:
        msg = f"{data.folder}: none of {result['n']} images can be decoded ({tally.rows[0]['error_message']})"
        raise ContractError(msg)
    return result, pa.Table.from_pylist(tally.rows, schema=PREDICTIONS)
