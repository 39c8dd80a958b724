"""A takedown overwrites the texts that may quote a pair, by their marks, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dataops.facts import Quoted
from plugins.erasure.places import find_kind
from plugins.erasure.quotes import replace_quotes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


class _Inner(BaseModel):
    why: Quoted | None = None
    state: str = "new"


class _Schema(BaseModel):
    plain: str
    names: dict[str, list[tuple[str, Quoted]]]
    counted: dict[Quoted, int]
    inner: dict[str, _Inner]


@given(VALUES, VALUES, VALUES, VALUES, VALUES)
def test_replacing_follows_the_marks_in_any_json(plain, names, counted, inner, other):
    """What does not have the type of its schema is left alone, without an error."""
    value = {"plain": plain, "names": names, "counted": counted, "inner": inner, "other": other}
    assert replace_quotes(_Schema, value, str) == value
    dashed = replace_quotes(_Schema, value, lambda text: "-" * len(text))
    assert (dashed["plain"], dashed["other"]) == (plain, other)


def test_manifests_of_checkpoints_are_left_alone_and_damaged_ones_refused():
    digests = b'{"model.safetensors": "ab"}'
    checkpoint = find_kind("train/0123456789abcdef/_work/checkpoints/step-000003/manifest.json")
    assert checkpoint.redact(digests, str) == digests
    for damaged in (digests, b"[]"):
        with pytest.raises(ValueError, match="no record of its kind"):
            find_kind("train/0123456789abcdef/manifest.json").redact(damaged, str)
