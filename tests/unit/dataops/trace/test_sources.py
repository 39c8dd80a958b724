"""The source of a pair is found by its name, and what a manifest records of one or of several sources is read."""

import polars as pl

from dataops.snapshot import Input
from dataops.trace.sources import find_source, list_named_sources, list_sources, number_sources
from tests.manifests import build_manifest


def test_rows_are_numbered_by_the_name_before_the_first_slash():
    rows = pl.Series(["b/a/x", "a/b", "a", None, "ab/c", "c/", "/a"])
    assert number_sources(rows, ["a", "b"]).to_list() == [1, 0, 2, 2, 2, 2, 2]
    assert [find_source(row, ["a", "b"]) for row in rows.to_list()] == ["b", "a", None, None, None, None, None]


def test_a_source_without_a_name_has_the_facts_of_the_manifest():
    old = build_manifest("extract", config={"kind": "pairs"}, inputs=[Input(stage="source", key="a", digest="0")] * 2)
    assert [(one.name, one.kind, one.files) for one in list_sources(old)] == [("", "pairs", 2)]
    assert list_named_sources({"extract": old}) == []
    assert list_named_sources({"pack": build_manifest("pack", facts={"sources": {"a": 1}})})[0].name == "a"
