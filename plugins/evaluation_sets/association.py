"""Association: a word and several images, of which as many are chosen as belong to the word (WinoGAViL).

Shape suffixes: Q cues, D embed_dim, N candidates of a cue.
"""

from math import comb
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dataops.errors import ContractError
from training.evaluation.encode import EvaluatedModel, encode_texts
from training.evaluation.features import EncodedSet
from training.evaluation.intervals import bootstrap_interval
from training.evaluation.sets import Cue
from training.evaluation.task import Task

PREDICTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("cue", pa.string()),
        ("candidates", pa.list_(pa.string())),
        ("associations", pa.list_(pa.string())),
        ("chosen", pa.list_(pa.string())),
        ("jaccard", pa.float64()),
    ]
)
"""One row per cue, in the order of associations.jsonl; images by their keys, `chosen` from the nearest on."""


def associate(
    loaded: EvaluatedModel, task: Task, encoded: EncodedSet, threads: int | None = None
) -> tuple[dict[str, Any], pa.Table]:
    """Choose for each cue the images whose features are nearest to it. An unreadable image is chosen last.

    Returns: the task's entry of metrics.json and its predictions.
    Raises: ContractError if a cue names an image that the set does not have.
    Source: Bitton et al. 2022, "WinoGAViL", section 4 (Jaccard index); the prompt of a cue: DataComp,
        eval_utils/wino_eval.py. DataComp does not normalise the features of images; here scores are cosines.
    """
    cues = task.data.cues()
    row_of = {sample.key: row for row, sample in enumerate(encoded.readable)}
    known = {sample.key for sample in encoded.samples}
    text_QD = encode_texts(loaded, [make_prompt(cue.cue) for cue in cues], threads)
    rows = []
    for number, cue in enumerate(cues):
        if unknown := [key for key in cue.candidates if key not in known]:
            raise ContractError(f"{task.data.root}: cue {cue.cue!r} names {unknown[0]!r}, which is no image of the set")
        readable = [key for key in cue.candidates if key in row_of]
        cosine_N = (
            encoded.features_RD[torch.tensor([row_of[key] for key in readable], dtype=torch.long)] @ text_QD[number]
        )
        order = cosine_N.sort(descending=True, stable=True).indices.tolist()
        nearest = [readable[i] for i in order] + [key for key in cue.candidates if key not in row_of]
        chosen = nearest[: len(cue.associations)]
        rows.append(
            {
                "key": str(number),
                "cue": cue.cue,
                "candidates": cue.candidates,
                "associations": cue.associations,
                "chosen": chosen,
                "jaccard": jaccard_index(cue.associations, chosen),
            }
        )
    return _result(cues, rows, encoded), pa.Table.from_pylist(rows, schema=PREDICTIONS)


def make_prompt(cue: str) -> str:
    """Return `A cue` or `An onset`."""
    return f"{'An' if cue[:1].lower() in 'aeiou' else 'A'} {cue.lower()}"


def jaccard_index(one: tuple[str, ...] | list[str], other: tuple[str, ...] | list[str]) -> float:
    """Return the size of the intersection of two sets over that of their union."""
    return len({*one} & {*other}) / len({*one, *other})


def expected_jaccard(right: int, candidates: int) -> float:
    """Return the expected index of as many candidates as are right, drawn at random (hypergeometric)."""
    hits = range(max(0, 2 * right - candidates), right + 1)
    ways = (comb(right, hit) * comb(candidates - right, right - hit) * hit / (2 * right - hit) for hit in hits)
    return sum(ways) / comb(candidates, right)


def _result(cues: list[Cue], rows: list[dict[str, Any]], encoded: EncodedSet) -> dict[str, Any]:
    scores_Q = np.array([row["jaccard"] for row in rows])
    low, high = bootstrap_interval(len(rows), lambda drawn: float(scores_Q @ drawn) / len(rows))
    chance = float(np.mean([expected_jaccard(len(cue.associations), len(cue.candidates)) for cue in cues]))
    return {
        "kind": "association",
        "n": len(rows),
        "images": len(encoded.samples),
        "unreadable": len(encoded.samples) - len(encoded.readable),
        "metrics": {"jaccard": {"value": float(scores_Q.mean()), "low": low, "high": high, "chance": chance}},
    }
