"""Facts are read by their type, whatever a newer version adds."""

import json

import pytest

from dataops.errors import CorruptPart
from dataops.facts import (
    DownloadFacts,
    EvaluateFacts,
    ExtractFacts,
    FilterFacts,
    PackFacts,
    RegisterFacts,
)
from dataops.snapshot import Manifest
from tests.manifests import build_manifest

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


def test_facts_of_a_manifest_survive_json_and_are_written_as_they_were():
    for model, facts in ((ExtractFacts, EXTRACTED), (FilterFacts, FILTERED), (PackFacts, PACKED)):
        manifest = Manifest.decode(build_manifest(model.stage, facts=facts).encode())
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
def test_a_missing_fact_names_the_manifest_and_the_fact(model, facts, named):
    with pytest.raises(CorruptPart, match=rf"{model.stage}/0000000000000000/manifest\.json .*\b{named}: "):
        model.of(build_manifest(model.stage).model_copy(update={"facts": facts}))
