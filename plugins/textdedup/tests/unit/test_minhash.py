"""Compares shingles and bands, which are of signatures, with plain Python, and their recall with all pairs."""

import math
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.textdedup import minhash as caption_minhash
from plugins.textdedup.minhash import MAX_HASHES, RECALL, Scheme, choose_scheme, hash_bands
from plugins.textdedup.shingles import hash_normal_forms
from plugins.textdedup.tests.unit import slow_captions as slow

TEXT = st.one_of(st.text(max_size=40), st.text("aAbB ß市京İıΣςé\u0301-'\U0001f436ไทย1ŉ", max_size=20))


@given(st.lists(TEXT | st.none(), max_size=6), st.integers(0, 2**64 - 1))
def test_bands_equal_a_reference_in_plain_python(texts, scope):
    found = hash_bands(pa.array(texts, pa.string()), np.full(len(texts), scope, np.uint64), Scheme(4, 3))
    assert found.tolist() == [slow.bands(text, scope, 4, 3) for text in texts]


@given(st.lists(TEXT | st.none(), max_size=8))
def test_hashes_are_equal_if_normal_forms_are(texts):
    halves = [tuple(half) for half in hash_normal_forms(pa.array(texts, pa.string())).tolist()]
    forms = [slow.normal(text) for text in texts]
    for i, j in combinations(range(len(texts)), 2):
        assert (halves[i] == halves[j]) == (forms[i] == forms[j])
    assert [half == (0, 0) for half in halves] == [form == "" for form in forms]


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0])
def test_choose_scheme_has_the_longest_bands_that_reach_the_recall(threshold):
    found = choose_scheme(threshold)
    assert found.chance(threshold) >= RECALL
    assert found.hashes <= MAX_HASHES
    assert Scheme(found.bands - 1, found.rows).chance(threshold) < RECALL or found.bands == 1
    longer = found.rows + 1
    needed = math.inf if threshold == 1 else math.log(1 - RECALL) / math.log(1 - threshold**longer)
    assert needed * longer > MAX_HASHES - longer or found.rows == caption_minhash.MAX_ROWS


@pytest.mark.parametrize("threshold", [0.6, 0.9])
def test_bands_reach_the_recall_over_all_pairs(threshold):
    captions = slow.variants(2, 1500)
    by = choose_scheme(threshold)
    hashes = hash_bands(pa.array(captions), np.zeros(len(captions), np.uint64), by)
    true = slow.all_pairs(captions, threshold)
    assert len(true) > 150
    found = sum(bool((hashes[i] == hashes[j]).any()) for i, j in true) / len(true)
    expected = sum(by.chance(similarity) for similarity in true.values()) / len(true)
    assert found >= RECALL
    assert found == pytest.approx(expected, abs=0.01)
