"""The events of a run of the command."""

from dataclasses import replace

import pytest

from tests.servers.recorder import serve_recorder

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("pipeline")]


def test_run_sends_the_events_of_its_stages(pairmill):
    config = pairmill.write_config("lineage")
    with serve_recorder() as catalogue:
        ours = replace(pairmill, env=pairmill.env | {"OPENLINEAGE_URL": catalogue.url})
        run = ours.json("run", config, "--until", "filter")
        events = [call.json() for call in catalogue.calls]
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        ("small", "START"),
        *((f"small.{stage}", kind) for stage in ("extract", "filter") for kind in ("START", "COMPLETE")),
        ("small", "COMPLETE"),
    ]
    assert events[0]["run"]["facets"]["tags"]["tags"][0]["value"] == run["run_id"]
