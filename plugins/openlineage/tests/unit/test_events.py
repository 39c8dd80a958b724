"""Events from manifests equal those of the classes that OpenLineage generates."""

import json
from datetime import datetime
from itertools import pairwise

from openlineage.client.serde import Serde

from dataops.snapshot import Counts, Input
from plugins.openlineage.events import build_events, render_events
from plugins.openlineage.tests.theirs import as_openlineage, without_empty
from tests.manifests import build_manifest


def manifests(*more):
    """Return a chain of manifests with hostile text; the last one has these inputs too."""
    below = [Input(stage="source", key="<script>\x1b[31m", digest="0" * 64)]
    below += [Input(stage="source_names", key="1 files", digest="1" * 64)]
    found = []
    for number, stage in enumerate(("extract", "filter", "download", "curate", "pack", "train")):
        one = build_manifest(
            stage,
            key=f"{number:016x}",
            inputs=[*below, *(more if stage == "train" else ())],
            code={"commit": "c" * 40},
            counts=Counts(input=10, kept=8, dropped={"<script>": 2}),
            content_digest=f"{number:064x}",
            created_at=f"2026-01-02T03:04:0{number}+00:00",
        )
        found.append(one)
        below = [one.as_input()]
    return found


def test_events_equal_those_of_openlineage_classes():
    built = build_events(manifests(), "s3://user:secret@bucket/x")
    assert [event["job"]["name"] for event in built] == [one.stage for one in manifests()]
    for event in built:
        assert without_empty(Serde.to_dict(as_openlineage(event))) == event  # the URL of each schema is among it
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert "secret" not in json.dumps(built)
    assert len(built[0]["inputs"]) == 1, "the names of the files are no dataset"


def test_events_are_linked_and_reproducible():
    for before, after in pairwise(build_events(manifests(), "/store")):
        output, source = before["outputs"][0], after["inputs"][0]
        assert (output["namespace"], output["name"]) == (source["namespace"], source["name"])
    assert render_events(reversed(manifests()), "/store") == render_events(manifests(), "/store")


def test_weights_of_others_are_datasets_outside_the_store():
    weights = Input(stage="train.text_init", key="made", digest="b" * 64)
    event = build_events(manifests(weights), "/store")[-1]
    assert [(one["namespace"], one["name"]) for one in event["inputs"]][1:] == [("train.text_init", "made")]
