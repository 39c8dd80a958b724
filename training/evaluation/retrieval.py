"""Image-text retrieval: each image ranks all captions, and each caption ranks all images.

Shape suffixes: I images, M captions, Q queries of a chunk, G gallery items, D embed_dim.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from training import distributed
from training.evaluation.encode import EvaluatedModel, encode_texts, map_in_order
from training.evaluation.features import EncodedSet
from training.evaluation.intervals import expected_recall, proportion_record

RECALL_AT = (1, 5, 10)
WAYS = ("image_to_text", "text_to_image")
SCORES_AT_ONCE = 1 << 22
"""Scores that a thread holds together (16 MiB of float32).

Queries go in chunks of this over the gallery's size, so memory does not grow with queries x gallery: a million captions
are ranked 4 queries at a time."""

PREDICTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("image_to_text_rank", pa.int32()),
        ("text_to_image_ranks", pa.list_(pa.int32())),
        ("status", pa.string()),
        ("error_message", pa.string()),
    ]
)
"""One row per image, in the order of the set.

The rank, from 1, of its best own caption among all captions, and for each of its captions the rank of the image among
all readable images; null where `status` is `unreadable` (else `ok`)."""


def rank_best_matches(
    query_QD: Tensor,
    gallery_GD: Tensor,
    first_Q: Sequence[int],
    last_Q: Sequence[int],
    threads: int | None = None,
    at_once: int = SCORES_AT_ONCE,
) -> list[int]:
    """Return for each query the rank, from 1, of the best right item of the gallery.

    Args:
        query_QD, gallery_GD: unit-norm rows.
        first_Q, last_Q: the right items of query i are `first_Q[i] <= item < last_Q[i]`.
        at_once: maximum scores that a thread computes at a time, which bounds memory.

    Returns: ranks; items of equal score rank in the order of the gallery.
    """
    size, device = gallery_GD.shape[0], gallery_GD.device
    position_G = torch.arange(size, device=device)
    low_Q1 = torch.tensor(first_Q, device=device)[:, None]
    high_Q1 = torch.tensor(last_Q, device=device)[:, None]

    @torch.inference_mode()
    def ranks(chunk: slice) -> list[int]:
        # All scores come from one product: a second one could differ in its last bits.
        scores_QG = query_QD[chunk] @ gallery_GD.T
        right_QG = (position_G >= low_Q1[chunk]) & (position_G < high_Q1[chunk])
        best_Q1 = scores_QG.masked_fill(~right_QG, -torch.inf).amax(dim=1, keepdim=True)
        at_Q1 = ((scores_QG == best_Q1) & right_QG).to(torch.int8).argmax(dim=1, keepdim=True)
        ahead_QG = (scores_QG > best_Q1) | ((scores_QG == best_Q1) & (position_G < at_Q1))
        return (ahead_QG.sum(dim=1) + 1).tolist()

    step = max(1, at_once // size)
    chunks = (slice(start, start + step) for start in range(0, query_QD.shape[0], step))
    results = distributed.merge_shares(map_in_order(ranks, distributed.take_share(chunks), threads))
    return [rank for chunk in results for rank in chunk]


def retrieve(
    loaded: EvaluatedModel, encoded: EncodedSet, threads: int | None = None
) -> tuple[dict[str, Any], pa.Table]:
    """Rank every image against every caption, both ways.

    R@k is the share of queries with a right answer among the first k, as CLIP papers and
    CLIP_benchmark count it; a caption that is word for word another image's too is right only for
    its own image. Queries of or for an unreadable image are wrong. Captions of one image are not
    independent, so the interval of text_to_image is a little too narrow where images have several.
    mean_R_at_1 is the mean of both ways, as DataComp reports it.

    Returns: the task's entry of metrics.json and its predictions.
    Source: CLIP_benchmark, clip_benchmark/metrics/zeroshot_retrieval.py.
    """
    rows = [
        {**row, "captions": sample.captions}
        for row, sample in zip(encoded.rows([{}] * len(encoded.readable)), encoded.samples, strict=True)
    ]
    captions = [caption for row in rows for caption in row["captions"]]
    _rank(rows, encoded.features_RD, encode_texts(loaded, captions, threads), threads)
    return _result(rows, captions), pa.Table.from_pylist(rows, schema=PREDICTIONS)


def _rank(rows: list[dict[str, object]], images_ID: Tensor, captions_MD: Tensor, threads: int | None) -> None:
    """Add the ranks to the rows of readable images; `images_ID` has a row for each of these, in order."""
    spans = list(_caption_spans(rows))
    readable = [row for row, _, _ in spans]
    to_text = rank_best_matches(
        images_ID, captions_MD, [first for _, first, _ in spans], [last for _, _, last in spans], threads
    )
    image_of = [i for i, (_, first, last) in enumerate(spans) for _ in range(first, last)]
    queries = [m for _, first, last in spans for m in range(first, last)]
    query_MD = captions_MD if len(queries) == len(captions_MD) else captions_MD[torch.tensor(queries)]
    to_image = iter(rank_best_matches(query_MD, images_ID, image_of, [i + 1 for i in image_of], threads))
    for row, rank in zip(readable, to_text, strict=True):
        row["image_to_text_rank"] = rank
        row["text_to_image_ranks"] = [next(to_image) for _ in row["captions"]]


def _caption_spans(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield (row, first caption, last caption + 1) of each readable image, counted over the captions of all images."""
    first = 0
    for row in rows:
        last = first + len(row["captions"])
        if row["status"] == "ok":
            yield row, first, last
        first = last


def _result(rows: list[dict[str, Any]], captions: list[str]) -> dict[str, Any]:
    """Return the task's entry of metrics.json. Chance is that of a random ranking of all captions, or of all images."""
    images = len(rows)
    to_text = [row["image_to_text_rank"] for row in rows if row["status"] == "ok"]
    to_image = [rank for row in rows if row["status"] == "ok" for rank in row["text_to_image_ranks"]]
    right = [len(row["captions"]) for row in rows]
    metrics: dict[str, Any] = {}
    for k in RECALL_AT:
        hits = sum(rank <= k for rank in to_text)
        metrics[f"image_to_text_R_at_{k}"] = proportion_record(hits, images, expected_recall(k, right, len(captions)))
    for k in RECALL_AT:
        hits = sum(rank <= k for rank in to_image)
        metrics[f"text_to_image_R_at_{k}"] = proportion_record(hits, len(captions), min(1.0, k / images))
    both = [float(metrics[f"{way}_R_at_1"][name] or 0) for name in ("value", "chance") for way in WAYS]
    metrics["mean_R_at_1"] = {"value": sum(both[:2]) / 2, "low": None, "high": None, "chance": sum(both[2:]) / 2}
    return {
        "kind": "retrieval",
        "n": images,
        "captions": len(captions),
        "distinct_captions": len(set(captions)),
        "unreadable": images - len(to_text),
        "metrics": metrics,
    }
