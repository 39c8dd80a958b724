"""Compares dataops.text.query_matching with dictionaries of words."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dataops.text.query_matching import compile_queries, match_queries
from tests.slow_words import words


def match_slowly(captions, queries):
    numbers = {}
    for number, query in enumerate(queries):
        numbers.setdefault(tuple(words(query)), number)
    result = []
    for caption in captions:
        tokens = words(caption or "")
        runs = {tuple(tokens[i:j]) for i in range(len(tokens)) for j in range(i + 1, len(tokens) + 1)}
        result.append(sorted(numbers[run] for run in runs if run in numbers))
    return result


@given(st.lists(st.text(max_size=30), max_size=5), st.lists(st.text(max_size=6).filter(words), min_size=1, max_size=6))
def test_match_queries_equals_the_dictionary_on_any_text(captions, queries):
    assert match_queries(pa.array(captions, pa.string()), compile_queries(queries)).to_pylist() == match_slowly(
        captions, queries
    )


def test_match_queries_accepts_slices_and_many_matches():
    queries = compile_queries(["a", "b", "a b"])
    captions = pa.array(["x", "a b", "a b " * 3000, "b"] * 10)
    assert match_queries(captions[1:3], queries).to_pylist() == [[0, 1, 2], [0, 1, 2]]
    assert match_queries(captions, queries).to_pylist() == [[], [0, 1, 2], [0, 1, 2], [1]] * 10
    assert match_queries(pa.array([], pa.string()), queries).to_pylist() == []
