"""Comparisons and contamination on cases whose answers are known."""

import pyarrow as pa
import pytest

from tests.oracles import scipy
from training.evaluation.comparison import compare, mcnemar_p_value
from training.evaluation.contamination import contamination


def predictions(right, keys=None):
    return pa.table({"key": keys or [str(i) for i in range(len(right))], "rank": [1 if r else 2 for r in right]})


def test_mcnemar_equals_a_binomial_test_of_the_disagreements():
    assert mcnemar_p_value(0, 0) == 1
    assert mcnemar_p_value(3, 3) == 1
    assert mcnemar_p_value(1, 9) == pytest.approx(2 * scipy("stats").binom.cdf(1, 10, 0.5))
    assert mcnemar_p_value(9, 1) == mcnemar_p_value(1, 9)


def test_retrieval_both_ways():
    keys, ranks = [str(i) for i in range(40)], [[1, 1], [1, 2]] * 20
    first = pa.table({"key": keys, "image_to_text_rank": [1] * 40, "text_to_image_ranks": ranks})
    second = pa.table(
        {"key": keys, "image_to_text_rank": [2] * 39 + [None], "text_to_image_ranks": [[2, 2]] * 39 + [None]}
    )
    found = compare(first, second)
    assert found["image_to_text_R_at_1"]["verdict"] == found["text_to_image_R_at_1"]["verdict"] == "better"
    assert found["text_to_image_R_at_1"]["first"] == pytest.approx(0.75)
    assert found["text_to_image_R_at_1"]["p_value"] is None


def test_text_to_image_recall_is_the_share_of_all_captions_as_in_the_metrics():
    # 1 of 1 and 1 of 4 captions are right: 2 of 5, not the mean of the two images
    table = {"key": ["a", "b"], "captions": [["a"], list("bcde")], "image_to_text_rank": [1, 1]}
    first = pa.table({**table, "text_to_image_ranks": [[1], [1, 2, 2, 2]]})
    second = pa.table({**table, "text_to_image_ranks": [[2], None]})
    found = compare(first, second)["text_to_image_R_at_1"]
    assert (found["first"], found["second"]) == (pytest.approx(0.4), 0)
    assert found["difference"] == pytest.approx(0.4)
    assert found["low"] == pytest.approx(0.25)  # both draws are the second image
    assert found["high"] == 1


def test_contamination_splits_a_half_overlapping_set():
    right = [1] * 90 + [0] * 10 + [1] * 50 + [0] * 50
    members = {str(i) for i in range(100)} | {"gone"}
    rows = contamination({"dirty": predictions(right), "clean": predictions(right)}, {"dirty": members})
    dirty, clean = rows
    assert (dirty["overlap"], dirty["unknown_members"]) == (100, 1)
    assert (dirty["all"], dirty["clean"], dirty["overlap_accuracy"]) == (0.7, 0.5, 0.9)
    assert dirty["inflation"] == pytest.approx(0.2)
    assert dirty["p_value"] == pytest.approx(scipy("stats").binom.sf(89, 100, 0.5))
    assert dirty["significant"] is dirty["significant_corrected"] is True
    assert dirty["overlap_low"] < 0.9 < dirty["overlap_high"]
    assert (clean["overlap"], clean["p_value"], clean["significant"], clean["inflation"]) == (0, None, None, 0)
