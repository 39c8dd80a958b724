"""Zero-shot classification: a class is the mean of its prompts' text features, an image gets the nearest class.

Shape suffixes: B images of a batch, C classes, T templates, K best classes, D embed_dim.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dataops.errors import ContractError
from training.evaluation.class_weights import average_prompts, compute_class_weights, encode_prompts
from training.evaluation.encode import EvaluatedModel
from training.evaluation.features import EncodedSet
from training.evaluation.intervals import proportion_record
from training.evaluation.metrics import find_worst_group, group_records, macro_f1, mean_per_class_record, roc_auc_record
from training.evaluation.samples import Sample
from training.evaluation.task import Group, Task

BEST = 5
BINARY = 2

IMAGES_AT_ONCE = 1024
"""Maximum images whose scores are held together, which bounds memory at any number of images."""

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
"""One row per image, in the order of the set.

`rank` of the true label from 1; `scores` are the cosines of `top5`; all of them null where `status` is `unreadable`
(else `ok`)."""


def rank_true_labels(scores_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the rank of the true label, from 1; ties rank by column, so a constant model gains nothing."""
    true_B1 = scores_BC.gather(1, labels_B[:, None])
    before_C = torch.arange(scores_BC.shape[1], device=scores_BC.device)
    ahead_BC = (scores_BC > true_B1) | ((scores_BC == true_B1) & (before_C < labels_B[:, None]))
    return ahead_BC.sum(dim=1) + 1


def select_top(scores_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best (scores, columns), by falling score and then by column: `torch.topk` does not order ties."""
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


def iterate_chunks(encoded: EncodedSet) -> Iterator[tuple[Tensor, list[Sample]]]:
    """Yield features of the readable images with their samples, IMAGES_AT_ONCE at a time."""
    readable = encoded.readable
    for start in range(0, len(readable), IMAGES_AT_ONCE):
        yield encoded.features_RD[start : start + IMAGES_AT_ONCE], readable[start : start + IMAGES_AT_ONCE]


def classify(
    loaded: EvaluatedModel,
    task: Task,
    encoded: EncodedSet,
    threads: int | None = None,
    cache: dict[tuple[str, ...], Tensor] | None = None,
) -> tuple[dict[str, Any], pa.Table]:
    """Classify every image of a set.

    Args:
        cache: class weights by prompts, kept by the caller for tasks that share their classes.

    Returns: the task's entry of metrics.json and its predictions. An unreadable image counts as wrong.
    """
    cache = {} if cache is None else cache
    class_names, templates = task.data.class_names(), task.data.templates()
    prompts = (*templates, "", *class_names)  # no template is empty, so the parts cannot be confused
    each_template: list[dict[str, Any]] = []
    if "prompts" in task.protocols:
        prompts_CTD = torch.cat(list(encode_prompts(loaded, class_names, templates, threads)))
        cache.setdefault(prompts, average_prompts(prompts_CTD))
        each_template = measure_templates(encoded, prompts_CTD, templates)
    elif prompts not in cache:
        cache[prompts] = compute_class_weights(loaded, class_names, templates, threads)
    answers: list[dict[str, Any]] = []
    for features_BD, samples in iterate_chunks(encoded):
        answers += _answers(features_BD @ cache[prompts].T, [s.label for s in samples], class_names)
    rows = [
        {**row, "label": sample.label, "label_name": class_names[sample.label]}
        for row, sample in zip(encoded.rows(answers), encoded.samples, strict=True)
    ]
    result = _result(task, encoded, rows, len(class_names))
    result |= {"templates": len(templates)} | ({"each_template": each_template} if each_template else {})
    return result, pa.Table.from_pylist(rows, schema=PREDICTIONS)


def measure_templates(encoded: EncodedSet, prompts_CTD: Tensor, templates: Sequence[str]) -> list[dict[str, Any]]:
    """Return the accuracy of each template alone: template, value (top-1), low, high; best first.

    The figures show how much prompts matter. Choosing the best template by them would be choosing
    on the test set.
    """
    right_T = torch.zeros(len(templates), dtype=torch.int64)
    for features_BD, samples in iterate_chunks(encoded):
        labels_B = torch.tensor([sample.label for sample in samples], device=features_BD.device)
        for t in range(len(templates)):
            ranks_B = rank_true_labels(features_BD @ prompts_CTD[:, t].T, labels_B)
            right_T[t] += int((ranks_B == 1).sum())
    n = len(encoded.samples)
    records = [
        {"template": template, **proportion_record(int(right), n, 1 / len(prompts_CTD))}
        for template, right in zip(templates, right_T, strict=True)
    ]
    return sorted(records, key=lambda record: -float(record["value"] or 0))


def _answers(scores_BC: Tensor, labels: list[int], class_names: Sequence[str]) -> list[dict[str, Any]]:
    ranks = rank_true_labels(scores_BC, torch.tensor(labels, device=scores_BC.device)).tolist()
    values_BK, columns_BK = select_top(scores_BC, BEST)
    return [
        {
            "predicted": columns[0],
            "predicted_name": class_names[columns[0]],
            "rank": rank,
            "top5": columns,
            "scores": values,
        }
        for rank, columns, values in zip(ranks, columns_BK.tolist(), values_BK.tolist(), strict=True)
    ]


def _result(task: Task, encoded: EncodedSet, rows: Sequence[dict[str, Any]], classes: int) -> dict[str, Any]:
    """Return the task's entry of metrics.json."""
    n, labels = len(rows), np.array([row["label"] for row in rows])
    within = {k: np.array([row.get("rank", classes + 1) <= k for row in rows]) for k in (1, BEST)}
    metrics: dict[str, Any] = {
        "top1": proportion_record(int(within[1].sum()), n, 1 / classes),
        "top5": proportion_record(int(within[BEST].sum()), n, min(1.0, BEST / classes)),
        "mean_per_class": mean_per_class_record(labels.tolist(), within[1].tolist(), classes),
    }
    result = {
        "kind": "classification",
        "n": n,
        "classes": classes,
        "unreadable": n - len(encoded.readable),
        "metrics": metrics,
    }
    if task.metric == "macro_f1":
        value = macro_f1(labels, np.array([row.get("predicted", -1) for row in rows]))
        metrics["macro_f1"] = {"value": value, "low": None, "high": None, "chance": None}
    if task.metric == "roc_auc":
        metrics["roc_auc"] = roc_auc_record(_second_class(rows, classes, task.name), labels == 1)
    if task.group is not None:
        result["groups"] = _groups(task.group, encoded.samples, within, metrics)
    return result


def _second_class(rows: Sequence[dict[str, Any]], classes: int, task: str) -> np.ndarray:
    """Return how much nearer each image is to class 1 than to class 0; an unreadable one is wrong against every other.

    Raises: ContractError unless there are two classes, with images of both.
    """
    if classes != BINARY or len({row["label"] for row in rows}) != BINARY:
        raise ContractError(f"{task}: roc_auc needs two classes, and images of both")
    cosines = [dict(zip(row.get("top5", ()), row.get("scores", ()), strict=True)) for row in rows]
    wrong = {0: np.inf, 1: -np.inf}
    return np.array(
        [c[1] - c[0] if c else wrong[row["label"]] for c, row in zip(cosines, rows, strict=True)], dtype=float
    )


def _groups(
    group: Group, samples: Sequence[Sample], within: dict[int, np.ndarray], metrics: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the accuracy of each group; add the worst one's, and the gap from it to the best, to `metrics`."""
    short = next((s for s in samples if len(s.facts) <= group.column), None)
    if short is not None:
        raise ContractError(
            f"sample {short.key!r} has {len(short.facts)} facts; the suite groups by column {group.column}"
        )
    group_N = np.array([sample.facts[group.column] for sample in samples])
    found = {k: group_records(group_N, right, group.values, group.ignore) for k, right in within.items()}
    for k, records in found.items():
        worst = find_worst_group(records)
        figures = {name: worst[name] for name in ("value", "low", "high", "n")}
        metrics[f"worst_group_top{k}"] = {**figures, "chance": metrics[f"top{k}"]["chance"]}
    values = [record["value"] for record in found[1]]
    metrics["group_gap_top1"] = {"value": max(values) - min(values), "low": None, "high": None, "chance": None}
    return [{"by": group.name, **record} for record in found[1]]
