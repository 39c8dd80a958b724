"""A registration logs the lineage events of the stages."""

import json
from pathlib import Path

import pytest

from tests.registrations import connect

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("register_plugins")]


def test_registration_logs_an_event_of_each_stage(registered, tmp_path):
    path = connect().download_artifacts(registered[0].mlflow_run_id, "lineage.jsonl", str(tmp_path))
    events = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    assert events
    assert {event["eventType"] for event in events} == {"COMPLETE"}
