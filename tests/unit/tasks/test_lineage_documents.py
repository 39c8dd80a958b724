"""The events against the rules of the OpenLineage schema; card and graph with hostile text."""

import json
import re
from datetime import datetime
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator

from dataops.snapshot import Counts, Input, Manifest
from tasks.champion import at_least
from tasks.lineage_events import events, events_text
from tasks.lineage_graph import graph_svg
from tasks.model_card import Card, contamination

HOSTILE = "<script>alert(1)</script> [x](javascript:1) \x1b[31m | `"

# What OpenLineage 2-0-2 asks of a RunEvent and of the facets that we write, in its own words for names and formats.
_FACET = {
    "type": "object",
    "properties": {"_producer": {"type": "string", "format": "uri"}, "_schemaURL": {"type": "string", "format": "uri"}},
    "required": ["_producer", "_schemaURL"],
}
_DATASET = {
    "type": "object",
    "properties": {
        "namespace": {"type": "string"},
        "name": {"type": "string"},
        "facets": {"type": "object", "additionalProperties": _FACET},
        "outputFacets": {"type": "object", "additionalProperties": _FACET},
    },
    "required": ["namespace", "name"],
}
RUN_EVENT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "format": "uri"},
        "schemaURL": {"type": "string", "format": "uri"},
        "eventType": {"type": "string", "enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "run": {
            "type": "object",
            "properties": {"runId": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}},
            "required": ["runId"],
        },
        "job": {
            "type": "object",
            "properties": {
                "namespace": {"type": "string"},
                "name": {"type": "string"},
                "facets": {"type": "object", "additionalProperties": _FACET},
            },
            "required": ["namespace", "name"],
        },
        "inputs": {"type": "array", "items": _DATASET},
        "outputs": {"type": "array", "items": _DATASET},
    },
    "required": ["run", "job", "eventTime", "producer", "schemaURL"],
}
REQUIRED_OF_FACETS = {
    "schema": {"fields"}, "dataSource": {"name", "uri"}, "version": {"datasetVersion"}, "outputStatistics": {"rowCount"},
    "sourceCodeLocation": {"type", "url"}, "jobType": {"processingType", "integration"},
}  # fmt: skip


def manifests() -> dict[str, Manifest]:
    found: dict[str, Manifest] = {}
    below: list[Input] = [Input(stage="source", key=HOSTILE, digest="0" * 64)]
    for number, stage in enumerate(("extract", "filter", "download", "curate", "pack", "train", "evaluate")):
        found[stage] = Manifest(
            stage=stage, stage_version=1, key=f"{number:016x}", inputs=below, config={"model": HOSTILE, "kind": HOSTILE},
            seed=0, code={"commit": "c" * 40}, parts=[], counts=Counts(input=10, kept=8, dropped={HOSTILE: 2}),
            facts={"licenses": {HOSTILE: 3, "": 5}, "hosts": {HOSTILE: 8}} if stage == "pack" else {},
            content_digest=f"{number:064x}", created_at=f"2026-01-02T03:04:0{number}+00:00",
        )  # fmt: skip
        below = [found[stage].as_input()]
    return found


ROWS = [{"task": HOSTILE, "metric": "top1", "value": 0.5, "low": 0.0, "high": 0.6, "chance": 0.1, "n": 10}]


def test_events_keep_the_rules_of_the_schema() -> None:
    told = events(manifests().values(), "s3://user:secret@bucket/x")
    assert [event["job"]["name"] for event in told] == list(manifests())
    for event in told:
        Draft202012Validator(RUN_EVENT).validate(event)
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        facets: dict[str, Any] = {**event["job"]["facets"]}
        for dataset in event["inputs"] + event["outputs"]:
            facets |= dataset["facets"] | dataset.get("outputFacets", {})
        for name, facet in facets.items():
            assert REQUIRED_OF_FACETS[name] <= facet.keys(), name
            place = facet["_schemaURL"].removeprefix("https://openlineage.io/spec/facets/")
            version, of = place.partition("#")[0].removesuffix(".json").split("/")
            assert re.fullmatch(r"\d+-\d+-\d+", version)
            assert of.endswith("Facet")
    assert "secret" not in json.dumps(told)


def test_events_hang_together_and_are_the_same_each_time() -> None:
    told = events(manifests().values(), "/store")
    for before, after in pairwise(told):
        output, source = before["outputs"][0], after["inputs"][0]
        assert (output["namespace"], output["name"]) == (source["namespace"], source["name"])
    assert events_text(reversed(manifests().values()), "/store") == events_text(manifests().values(), "/store")


def test_the_graph_is_xml_with_a_box_a_stage_and_no_markup_of_others() -> None:
    drawn = graph_svg(manifests(), HOSTILE)
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    names = [e.text for e in root.iter(f"{space}text") if e.get("class") == "name"]
    assert sorted(str(name) for name in names) == sorted([*manifests(), "sources", "model"])
    assert not list(root.iter(f"{space}script"))
    assert "\x1b" not in drawn


def test_the_card_is_escaped_and_says_what_was_not_looked_for() -> None:
    card = Card(HOSTILE, manifests(), ROWS, HOSTILE, HOSTILE, HOSTILE)
    page, plain = card.html(), card.markdown()
    assert "<script" not in page
    assert "\x1b" not in page + plain
    assert not re.search(r"(?<!\\)\]\(", plain)
    assert "<script" not in re.sub(r"\\[<>]", "", plain)
    rows = [line for line in plain.splitlines() if line.startswith(r"| \<script")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in rows] == [4, 4, 7], "no cell begins in a text"
    assert "were not looked for" in contamination(manifests()).said[0]
    assert "No better than chance" in page


@pytest.mark.parametrize(("heads", "throws", "p"), [(0, 0, 1.0), (5, 5, 1 / 32), (3, 4, 5 / 16), (0, 9, 1.0)])
def test_tail_of_the_binomial(heads: int, throws: int, p: float) -> None:
    assert at_least(heads, throws) == pytest.approx(p)
