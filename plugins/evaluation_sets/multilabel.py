"""Zero-shot classification of images with several classes: each class ranks all images, scored by average precision.

Shape suffixes: R readable images, C classes, N all images.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from training.evaluation.class_weights import compute_class_weights
from training.evaluation.encode import EvaluatedModel
from training.evaluation.features import EncodedSet
from training.evaluation.task import Task
from training.evaluation.zero_shot import BEST, iterate_chunks, select_top

PREDICTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("labels", pa.list_(pa.int32())),
        ("label_names", pa.list_(pa.string())),
        ("top5", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("rank", pa.int32()),
        ("status", pa.string()),
        ("error_message", pa.string()),
    ]
)
"""One row per image, in the order of the set.

`top5` are the classes nearest to it with their cosines; `rank` is that of the first right class, from 1, null if there
is none. All are null where `status` is `unreadable` (else `ok`)."""


def classify_multilabel(
    loaded: EvaluatedModel,
    task: Task,
    encoded: EncodedSet,
    threads: int | None = None,
    cache: dict[tuple[str, ...], Tensor] | None = None,
) -> tuple[dict[str, Any], pa.Table]:
    """Rank all images for each class. An unreadable image comes last in every ranking.

    Returns: the task's entry of metrics.json and its predictions.
    Source: CLIP_benchmark, clip_benchmark/metrics/zeroshot_classification.py, evaluate.
    """
    cache = {} if cache is None else cache
    class_names, templates = task.data.class_names(), task.data.templates()
    prompts = (*templates, "", *class_names)
    if prompts not in cache:
        cache[prompts] = compute_class_weights(loaded, class_names, templates, threads)
    scores, answers = [], []
    for features_BD, samples in iterate_chunks(encoded):
        scores_BC = features_BD @ cache[prompts].T
        scores.append(scores_BC.cpu())
        values_BK, columns_BK = select_top(scores_BC, BEST)
        order_BC = scores_BC.sort(dim=1, descending=True, stable=True).indices
        for row, sample in enumerate(samples):
            hits = torch.isin(order_BC[row].cpu(), torch.tensor(sample.labels, dtype=torch.int64)).nonzero()
            rank = int(hits[0]) + 1 if len(hits) else None
            answers.append({"top5": columns_BK[row].tolist(), "scores": values_BK[row].tolist(), "rank": rank})
    rows = [
        {**row, "labels": sample.labels, "label_names": [class_names[label] for label in sample.labels]}
        for row, sample in zip(encoded.rows(answers), encoded.samples, strict=True)
    ]
    result = _result(encoded, torch.cat(scores).numpy(), len(class_names))
    return {**result, "templates": len(templates)}, pa.Table.from_pylist(rows, schema=PREDICTIONS)


def _result(encoded: EncodedSet, scores_RC: np.ndarray, classes: int) -> dict[str, Any]:
    n = len(encoded.samples)
    readable_N = np.array([error is None for error in encoded.errors])
    scores_NC = np.full((n, classes), -np.inf, dtype=np.float32)
    scores_NC[readable_N] = scores_RC
    truth_NC = np.zeros((n, classes), dtype=bool)
    for row, sample in enumerate(encoded.samples):
        truth_NC[row, list(sample.labels)] = True
    chance = float(truth_NC.mean())  # the precision of any ranking at random tends to the share of relevant images
    metrics = {}
    measures = {"": average_precision, "_11_points": average_precision_11_points}
    each = {name: [f(scores_NC[:, c], truth_NC[:, c]) for c in range(classes)] for name, f in measures.items()}
    for name, values in each.items():
        record = {"value": float(np.mean(values)), "low": None, "high": None, "chance": chance}
        metrics[f"mean_average_precision{name}"] = record
    return {
        "kind": "multilabel",
        "n": n,
        "classes": classes,
        "unreadable": int((~readable_N).sum()),
        "metrics": metrics,
        "average_precision": [round(value, 6) for value in each[""]],
    }


def average_precision(scores_N: np.ndarray, relevant_N: np.ndarray) -> float:
    """Return the mean, over the relevant images, of the precision down to each, images ranked by falling score.

    Equal scores rank in the order of the images. A class without a relevant image has 0, as in CLIP_benchmark.
    Source: CLIP_benchmark 1.6.2, metrics/zeroshot_classification.py, average_precision_per_class.
    """
    relevant = relevant_N[np.argsort(-scores_N, kind="stable")].astype(bool)
    precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    return float(precision[relevant].sum() / max(relevant.sum(), 1))


def average_precision_11_points(scores_N: np.ndarray, relevant_N: np.ndarray) -> float:
    """Return the mean of the best precision at recall 0, 0.1, ..., 1 or more: the score of PASCAL VOC 2007 and the paper.

    Source: Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", section 4.2.
    """
    relevant = relevant_N[np.argsort(-scores_N, kind="stable")].astype(bool)
    if not relevant.any():
        return 0.0
    hits = np.cumsum(relevant)
    precision, recall = hits / np.arange(1, len(relevant) + 1), hits / hits[-1]
    # 10 x recall in whole tenths: 3/10 >= 0.3 must hold in binary too
    return float(np.mean([precision[recall * 10 >= tenth - 1e-9].max() for tenth in range(11)]))
