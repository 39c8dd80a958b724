"""Choice: an image, its right caption and wrong ones (SugarCrepe, ARO), or several images that share captions (Winoground).

Shape suffixes: C captions of an image, D embed_dim.
"""

from itertools import groupby
from math import prod
from typing import Any

import pyarrow as pa

from dataops.errors import ContractError
from training.evaluation.encode import EvaluatedModel, encode_texts
from training.evaluation.features import EncodedSet
from training.evaluation.intervals import proportion_record
from training.evaluation.task import Task

PREDICTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("is_right", pa.bool_()),
        ("status", pa.string()),
        ("error_message", pa.string()),
    ]
)
"""One row per image, in the order of the set: its captions, the right one first, and their cosines with the image."""


def choose_captions(
    loaded: EvaluatedModel, task: Task, encoded: EncodedSet, threads: int | None = None
) -> tuple[dict[str, Any], pa.Table]:
    """Choose the caption of each image whose feature is nearest to it; a tie, and an unreadable image, are wrong.

    A set has three more scores if it is made of groups: images that follow each other and have the same captions, each
    another right one. The text score of a group is 1 if each image prefers its own caption, its image score if each caption
    prefers its own image, its group score if both are.

    Returns: the task's entry of metrics.json and its predictions.
    Raises: ContractError if an image has one caption, or the same twice.
    Source: Hsieh et al. 2023 (SugarCrepe), section 3; Yuksekgonul et al. 2023 (ARO); Thrush et al. 2022 (Winoground),
        section 4: f, g and h.
    """
    for sample in encoded.samples:
        if len({*sample.captions}) < max(2, len(sample.captions)):
            raise ContractError(f"{task.data.folder}: {sample.key} needs a right caption and others, all different")
    names = sorted({caption for sample in encoded.samples for caption in sample.captions})
    number_of, texts_CD = {name: n for n, name in enumerate(names)}, encode_texts(loaded, names, threads)
    rows, readable = encoded.rows([{}] * len(encoded.readable)), iter(encoded.features_RD)
    for row, sample in zip(rows, encoded.samples, strict=True):
        row["captions"], row["scores"], row["is_right"] = sample.captions, None, False
        if row["status"] == "ok":
            numbers = [number_of[caption] for caption in sample.captions]
            row["scores"] = (texts_CD[numbers] @ next(readable)).double().tolist()
            row["is_right"] = row["scores"][0] > max(row["scores"][1:])
    return _result(rows), pa.Table.from_pylist(rows, schema=PREDICTIONS)


def _result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    chance = sum(1 / len(row["captions"]) for row in rows) / len(rows)
    metrics = {"accuracy": proportion_record(sum(row["is_right"] for row in rows), len(rows), chance)}
    groups = _group(rows)
    if all({row["captions"][0] for row in group} == set(group[0]["captions"]) for group in groups):
        scores = [_score_group(group) for group in groups]
        chances = [_chances(group) for group in groups]
        for n, name in enumerate(("text_score", "image_score", "group_score")):
            mean = sum(each[n] for each in chances) / len(groups)
            metrics[name] = proportion_record(sum(score[n] for score in scores), len(groups), mean)
    counts = {"n": len(rows), "unreadable": sum(row["status"] != "ok" for row in rows)}
    return {"kind": "choice", **counts, "captions": sum(len(row["captions"]) for row in rows), "metrics": metrics}


def _group(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Divide rows that follow each other and have the same captions into groups of as many rows as captions."""
    found: list[list[dict[str, Any]]] = []
    for captions, same in groupby(rows, key=lambda row: frozenset(row["captions"])):
        left = list(same)
        found += [left[first : first + len(captions)] for first in range(0, len(left), len(captions))]
    return found


def _score_group(rows: list[dict[str, Any]]) -> tuple[bool, bool, bool]:
    """Return whether the images choose right, the captions, and both."""
    by_images = all(row["is_right"] for row in rows)
    if any(row["scores"] is None for row in rows):
        return False, False, False
    of_row = [dict(zip(row["captions"], row["scores"], strict=True)) for row in rows]
    by_captions = all(
        own[row["captions"][0]] > max((other[row["captions"][0]] for other in of_row if other is not own), default=-2.0)
        for row, own in zip(rows, of_row, strict=True)
    )
    return by_images, by_captions, by_images and by_captions


def _chances(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Return the scores that random numbers reach. Source: Thrush et al. 2022, section 4: 1/4, 1/4 and 1/6 of pairs."""
    by_images, size = prod(1 / len(row["captions"]) for row in rows), len(rows)
    by_captions = 1 / size**size
    return by_images, by_captions, 1 / 6 if size == 2 == len(rows[0]["captions"]) else by_images * by_captions
