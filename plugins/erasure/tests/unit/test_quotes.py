"""A takedown overwrites the texts that may quote a pair, by their marks, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dataops.facts import Quoted
from plugins.erasure.quotes import replace_fact_quotes, replace_quotes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
EXTRACTED = {
    "files": 2, "read": {"page": 3}, "failed_files": [["b.warc", "error"]],
    "sources": [{"name": "b", "kind": "warc", "failed_files": [["b.warc", "error"]], "counts": {"kept": 4}}],
}  # fmt: skip
FILTERED = {
    "languages": {"en": 3}, "captions": {"a cat": 2, "a dog": 1}, "examples": {"short": ["a cat", "cat"]},
    "balance": {"pairs": 4, "unmatched_examples": ["a cat"], "head": [["cat", 2, 2.0]]},
}  # fmt: skip


def texts(value):
    """Yield all keys and values that are text."""
    if isinstance(value, dict):
        yield from (text for name, one in value.items() for text in (name, *texts(one)))
    elif isinstance(value, list):
        yield from (text for one in value for text in texts(one))
    elif isinstance(value, str):
        yield value


def test_quoted_text_of_each_stage_is_replaced_and_nothing_else():
    seen = []
    replace_fact_quotes("filter", FILTERED, lambda text: seen.append(text) or text)
    assert sorted(seen) == ["a cat", "a cat", "a cat", "a dog", "cat"]
    dashed = replace_fact_quotes("extract", EXTRACTED, lambda text: "-" * len(text))
    assert [*texts(EXTRACTED)].count("error") == 2
    assert [*texts(dashed)] == [text.replace("error", "-----") for text in texts(EXTRACTED)]


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
