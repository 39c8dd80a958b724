"""Facts are read by their type, whatever a newer version adds; their marks are all that a takedown overwrites."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dataops.errors import CorruptPart
from dataops.facts import (
    DownloadFacts,
    EvaluateFacts,
    ExtractFacts,
    FilterFacts,
    PackFacts,
    Quoted,
    RegisterFacts,
    list_facts,
    replace_fact_quotes,
    replace_quotes,
)
from dataops.snapshot import Manifest
from tests.manifests import build_manifest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
EXTRACTED = {
    "files": 2, "read": {"page": 3}, "damages": {"truncated": 1}, "damaged": [["a.warc", 7, "truncated"]],
    "failed_files": [["b.warc", "error"]],
    "sources": [{"name": "b", "kind": "warc", "failed_files": [["b.warc", "error"]], "counts": {"kept": 4}}],
}  # fmt: skip
BALANCE = {
    "pairs": 4, "unmatched": 1, "kept": 3, "seen": 3, "unmatched_examples": ["a cat"], "queries": 2, "queries_found": 1,
    "matches_before": 3, "matches_after": 3, "effective_before": 1.5, "effective_after": 1.25, "curve": [[1, 2, 2.0]],
    "head": [["cat", 2, 2.0]],
}  # fmt: skip
FILTERED = {
    "languages": {"en": 3}, "captions": {"a cat": 2, "a dog": 1}, "examples": {"short": ["a cat", "cat"]},
    "alone": {"short": 2}, "balance": BALANCE,
}  # fmt: skip
PACKED = {"samples": 3, "shards": 1, "bytes": 20, "languages": {"en": 2, "": 1}, "score:clip_score": {"4": 3}}


def texts(value: Any) -> Iterator[str]:
    """Yield all keys and values that are text."""
    if isinstance(value, dict):
        yield from (text for name, one in value.items() for text in (name, *texts(one)))
    elif isinstance(value, list):
        yield from (text for one in value for text in texts(one))
    elif isinstance(value, str):
        yield value


def test_facts_of_a_manifest_survive_json_and_are_written_as_they_were() -> None:
    for stage, facts in (("extract", EXTRACTED), ("filter", FILTERED), ("pack", PACKED)):
        manifest = Manifest.decode(build_manifest(stage, facts=facts).encode())
        (model,) = [one for one in list_facts(stage) if one.table is None]
        assert json.loads(json.dumps(model.of(manifest).as_json())) == facts
    assert PackFacts.of(build_manifest("pack", facts=PACKED)).scores == {"clip_score": {"4": 3}}
    assert ExtractFacts.of(build_manifest("extract", facts=EXTRACTED)).sources[0].counts.kept == 4


@pytest.mark.parametrize(
    ("model", "facts", "named"),
    [
        (PackFacts, {"samples": 1, "shards": 1}, "bytes"),
        (PackFacts, PACKED | {"languages": ["en"]}, "languages"),
        (DownloadFacts, {"shards": 1, "samples": 1, "bytes_fetched": 1}, "hosts"),
        (EvaluateFacts, {}, "metrics"),
        (RegisterFacts, {"model_name": "m", "version": "1"}, "model_uri"),
        (FilterFacts, {"balance": {**BALANCE, "queries": None}}, "balance.queries"),
    ],
)
def test_a_missing_fact_names_the_manifest_and_the_fact(model: Any, facts: dict[str, Any], named: str) -> None:
    with pytest.raises(CorruptPart, match=rf"{model.stage}/0000000000000000/manifest\.json .*\b{named}: "):
        model.of(build_manifest(model.stage).model_copy(update={"facts": facts}))


def test_quoted_text_of_each_stage_is_replaced_and_nothing_else() -> None:
    seen: list[str] = []
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
def test_replacing_follows_the_marks_in_any_json(plain: Any, names: Any, counted: Any, inner: Any, other: Any) -> None:
    """What does not have the type of its schema is left alone, without an error."""
    value = {"plain": plain, "names": names, "counted": counted, "inner": inner, "other": other}
    assert replace_quotes(_Schema, value, str) == value
    dashed = replace_quotes(_Schema, value, lambda text: "-" * len(text))
    assert (dashed["plain"], dashed["other"]) == (plain, other)
