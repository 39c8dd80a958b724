"""Checks fastText's languages under langdetect's names."""

import pyarrow as pa
import pytest

from dataops.plugins import find

TEXTS = [
    "The dog runs over the wet beach",
    "Der Hund läuft über den nassen Strand",
    "北京的天气很好",
    "Hunden løper på stranden",
]


def detect(texts, candidates=None):
    return find("detectors", "fasttext")(pa.array(texts, pa.string()), candidates)


def test_fasttext_uses_langdetects_names_and_rows_sum_to_one():
    found = detect([*TEXTS, "12345", "", "a\nc"])
    assert found.labels[:4] == ["en", "de", "zh-cn", "no"]
    assert found.labels[4:6] == [None, None]
    assert found.probabilities.sum(axis=1)[:4].tolist() == pytest.approx([1] * 4, abs=0.01)


def test_a_caption_in_capitals_is_detected_in_lower_case_and_one_in_no_candidates_script_has_no_language():
    found = detect(["THE DOG RUNS OVER THE WET BEACH", "北京的天气很好"], ["de", "en"])
    assert found.labels == ["en", None]
