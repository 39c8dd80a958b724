"""dataops.kernels.hashes against the reference implementation in C++ (mmh3) and plain integers."""

import mmh3
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from dataops.kernels.hashes import hash128, hash128_folded


@given(st.lists(st.text(max_size=70) | st.none(), max_size=6))
@example(["x" * size for size in range(70)])
def test_hash128_equals_the_reference_implementation(texts):
    expected = [mmh3.hash64((text or "").encode(), 0, signed=False) for text in texts]
    for column in (pa.array(texts, pa.string()), pa.array(["x", *texts], pa.string())[1:]):
        assert [tuple(row) for row in hash128(column).tolist()] == expected


@given(st.lists(st.text(max_size=20), max_size=6))
def test_hash128_folded_equals_python_casefold(texts):
    expected = [mmh3.hash64(text.casefold().encode(), 0, signed=False) for text in texts]
    assert [tuple(row) for row in hash128_folded(pa.array(texts, pa.string())).tolist()] == expected
