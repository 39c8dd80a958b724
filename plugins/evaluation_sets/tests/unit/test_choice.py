"""Choice, compared with the definitions of SugarCrepe, ARO and Winoground on made features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from dataops.errors import ContractError
from plugins.evaluation_sets import choice
from plugins.evaluation_sets.choice import choose_captions
from training.evaluation.comparison import compare
from training.evaluation.features import EncodedSet
from training.evaluation.samples import Sample
from training.evaluation.task import Task

TASK = Task(name="t", kind="choice", root="/nowhere")


def encoded(samples, features, errors=None):
    told = [(errors or {}).get(n) for n in range(len(samples))]
    return EncodedSet(Path("/nowhere"), samples, told, features, None)


def texts_of(monkeypatch, features):
    monkeypatch.setattr(choice, "encode_texts", lambda _, names, threads: torch.stack([features[n] for n in names]))


def test_winogrounds_scores_are_those_of_its_definition(monkeypatch):
    """f, g and h of 200 examples, from the four scores of each, as the paper's own code compares them."""
    draws = torch.Generator().manual_seed(0)
    images, texts = (normalize(torch.randn(200, 2, 6, generator=draws), dim=-1) for _ in range(2))
    texts = normalize(texts + 0.6 * images, dim=-1)
    texts_of(monkeypatch, {f"{n} {c}": texts[n, c] for n in range(200) for c in range(2)})
    samples = [Sample(f"{n}-{i}", b"", captions=(f"{n} {i}", f"{n} {1 - i}")) for n in range(200) for i in range(2)]
    result, table = choose_captions(None, TASK, encoded(samples, images.flatten(0, 1)))
    s = np.einsum("nid,ncd->nic", images, texts)  # image i, caption c
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    image = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    metrics = {name: record["value"] for name, record in result["metrics"].items()}
    each = np.concatenate([s[:, 0, 0] > s[:, 0, 1], s[:, 1, 1] > s[:, 1, 0]])
    expected = {"text_score": text, "image_score": image, "group_score": text & image, "accuracy": each}
    assert metrics == pytest.approx({name: right.mean() for name, right in expected.items()})
    chances = [result["metrics"][name]["chance"] for name in ("text_score", "image_score", "group_score", "accuracy")]
    assert chances == pytest.approx([1 / 4, 1 / 4, 1 / 6, 1 / 2])
    assert table.num_rows == 400
    compared = compare(table, table.set_column(3, "is_right", [[False] * 400]))["accuracy"]
    assert (compared["first"], compared["verdict"]) == (metrics["accuracy"], "better")


def test_accuracy_counts_images_that_prefer_the_right_caption(monkeypatch):
    """ARO has one or several wrong captions; a tie and an image that cannot be read are wrong."""
    x, y = torch.eye(2)
    texts_of(monkeypatch, {"right": x, "tie": x, "wrong": y, "other": -x})
    cases = [("right", "wrong", "other"), ("wrong", "right"), ("right", "tie"), ("right", "tie")]
    samples = [Sample(str(n), b"", captions=captions) for n, captions in enumerate(cases)]
    result, table = choose_captions(None, TASK, encoded(samples, torch.stack([x] * 3), {3: "broken"}))
    record = result["metrics"]["accuracy"]
    assert (record["value"], record["chance"]) == (1 / 4, pytest.approx((1 / 3 + 3 / 2) / 4))
    assert "group_score" not in result["metrics"], "two that follow each other have the same right caption"
    assert table.column("is_right").to_pylist() == [True, False, False, False]
    assert result["unreadable"] == 1
    for captions in (("right",), ("right", "right")):
        with pytest.raises(ContractError, match="needs a right caption and others"):
            choose_captions(None, TASK, encoded([Sample("a", b"", captions=captions)], x[None]))
