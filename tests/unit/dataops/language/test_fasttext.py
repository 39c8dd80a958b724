"""Checks fastText's languages under langdetect's names."""

import pytest

from dataops.language.fasttext import detect

TEXTS = [
    "The dog runs over the wet beach",
    "Der Hund läuft über den nassen Strand",
    "北京的天气很好",
    "Hunden løper på stranden",
]


def test_fasttext_uses_langdetects_names_and_rows_sum_to_one():
    found = detect([*TEXTS, "12345", "", "a\ud800b\nc"])
    assert found.labels[:4] == ["en", "de", "zh-cn", "no"]
    assert found.labels[4:6] == [None, None]
    assert found.probabilities.sum(axis=1)[:4].tolist() == pytest.approx([1] * 4, abs=0.01)


def test_detect_distributes_all_probability_among_candidates():
    found = detect(TEXTS, ["nl", "de"])
    assert found.candidates == ("de", "nl")
    assert found.labels[1] == "de"
    assert found.sum_probabilities(["nl", "de"])[:2].tolist() == pytest.approx([1, 1], abs=0.001)
    with pytest.raises(ValueError, match="no language profile 'xx'"):
        detect(TEXTS, ["xx"])
