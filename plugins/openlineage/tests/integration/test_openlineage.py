"""OpenLineage events reach a server while a run goes; a server that is down changes nothing but one warning."""

import logging
from datetime import datetime

import pytest

from dataops.errors import ContractError
from dataops.snapshot import Counts, Input
from flows.listeners.base import StageEnd
from plugins.openlineage import sender
from plugins.openlineage.listener import OpenLineage
from tests.kills.seaweed import free_port
from tests.live_runs import build_live_run, build_plan
from tests.manifests import build_manifest
from tests.servers.recorder import serve_recorder

KEY = "key-of-the-catalogue-0123"
SOURCES = [Input(stage="source", key=f"https://user:hunter22@host/{n}.warc.gz", digest="0" * 64) for n in range(1200)]


@pytest.fixture(scope="module")
def catalogue():
    with serve_recorder() as recorder:
        yield recorder


class Shown:
    """A run that is shown, of which tests say what happens."""

    def __init__(self, folder):
        self.run = build_live_run(folder)
        self.listener = OpenLineage(self.run)
        self.listener.begin()

    def make(self, manifest, *inputs):
        self.listener.making(build_plan(manifest.stage, *inputs), elsewhere=False)
        self.run.manifests[manifest.stage] = manifest
        self.listener.stage_ended(StageEnd(manifest.stage, "Completed", 1.0, manifest))

    def fail(self, stage, error):
        self.listener.making(build_plan(stage), elsewhere=False)
        self.listener.attempt_failed(error)

    def end(self, state, error=None):
        self.listener.ended(state, error)


@pytest.fixture
def start(tmp_path, monkeypatch, catalogue):
    """Return a function that begins the events of a run, to this catalogue or another URL."""
    catalogue.calls.clear()
    catalogue.status = 200
    monkeypatch.setenv(sender.API_KEY, KEY)
    monkeypatch.setattr("plugins.openlineage.listener.code_version", lambda: {"commit": "c" * 40})

    def begin(url=catalogue.url):
        monkeypatch.setenv(sender.URL, url)
        return Shown(tmp_path)

    return begin


@pytest.fixture
def theirs():
    """Return OpenLineage's own classes, whose import takes a second."""
    from plugins.openlineage.tests import theirs

    return theirs


def kinds(catalogue):
    return [(event["job"]["name"], event["eventType"]) for event in (call.json() for call in catalogue.calls)]


def test_events_of_a_completed_run(start, catalogue, tmp_path, theirs):
    lineage, made = start(), {}
    for stage in ("extract", "filter"):
        inputs = [one.as_input() for one in made.values()] or SOURCES
        manifest = build_manifest(stage, inputs=inputs, counts=Counts(input=3, kept=2, dropped={"a": 1}))
        made[stage] = manifest
        lineage.make(manifest, *inputs)
        catalogue.wait(2 * len(made))  # they arrive while the run goes
    lineage.end("completed")
    assert kinds(catalogue) == [
        ("demo", "START"),
        ("demo.extract", "START"), ("demo.extract", "COMPLETE"),
        ("demo.filter", "START"), ("demo.filter", "COMPLETE"),
        ("demo", "COMPLETE"),
    ]  # fmt: skip
    events = [call.json() for call in catalogue.calls]
    for event in events:  # OpenLineage's own classes refuse unknown fields and missing required ones
        assert theirs.without_empty(theirs.Serde.to_dict(theirs.as_openlineage(event))) == theirs.without_empty(event)
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    first, start_extract, end_extract, start_filter, end_filter, last = events
    assert first["run"]["runId"] == last["run"]["runId"]
    assert start_extract["run"]["runId"] == end_extract["run"]["runId"] != end_filter["run"]["runId"]
    assert start_filter["run"]["facets"]["parent"]["run"]["runId"] == first["run"]["runId"]
    (output,) = end_extract["outputs"]
    assert (output["namespace"], output["name"]) == (str(tmp_path), f"extract/{'0' * 16}")
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert [(one["namespace"], one["name"]) for one in end_filter["inputs"]] == [(str(tmp_path), output["name"])]
    assert start_extract["outputs"] == []
    assert len(start_extract["inputs"]) == 1000
    assert {call.path for call in catalogue.calls} == {"/api/v1/lineage"}
    assert {call.headers["authorization"] for call in catalogue.calls} == {f"Bearer {KEY}"}
    assert b"hunter22" not in b"".join(call.body for call in catalogue.calls)


def test_events_of_a_failed_attempt_and_a_stopped_run(start, catalogue, theirs):
    lineage = start()
    lineage.fail("filter", ContractError(f"3 rows were lost, {KEY}"))
    lineage.fail("filter", KeyboardInterrupt())
    lineage.end("stopped", "stopped in filter by Ctrl-C")
    catalogue.wait(6)
    assert kinds(catalogue) == [
        ("demo", "START"),
        ("demo.filter", "START"), ("demo.filter", "FAIL"),
        ("demo.filter", "START"), ("demo.filter", "ABORT"),
        ("demo", "ABORT"),
    ]  # fmt: skip
    events = [call.json() for call in catalogue.calls]
    for event in events:
        theirs.as_openlineage(event)
    assert events[2]["run"]["facets"]["errorMessage"]["message"] == "3 rows were lost, ***"
    assert events[5]["run"]["facets"]["errorMessage"]["message"] == "stopped in filter by Ctrl-C"
    assert events[1]["run"]["runId"] != events[3]["run"]["runId"], "each attempt is a run"


@pytest.mark.parametrize("trouble", ["down", "refuses", "no url"])
def test_server_that_accepts_no_events_is_one_warning(start, catalogue, trouble, caplog):
    caplog.set_level(logging.INFO)
    catalogue.status = 401
    down = f"http://user:hunter22@127.0.0.1:{free_port()}"
    lineage = start({"down": down, "refuses": catalogue.url, "no url": "catalogue"}[trouble])
    lineage.make(build_manifest("filter"))
    lineage.end("completed")
    (warning,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "OPENLINEAGE_URL" in warning.getMessage()
    assert "the run continues" in warning.getMessage()
    assert KEY not in caplog.text
    assert "hunter22" not in caplog.text


@pytest.mark.parametrize("trouble", ["redirect", "plain http"])
def test_key_reaches_no_other_machine_and_nobody_who_listens(start, catalogue, trouble, monkeypatch, caplog, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password stolen\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve_recorder() as other:
        catalogue.status, catalogue.location = 307, f"{other.url}/api/v1/lineage"
        lineage = start("http://192.0.2.1:9" if trouble == "plain http" else catalogue.url)
        lineage.end("completed")
        catalogue.location = None
        assert other.calls == []
    assert {call.headers["authorization"] for call in catalogue.calls} <= {f"Bearer {KEY}"}
    reason = {"redirect": "http_307: ", "plain http": "not_encrypted: "}[trouble]
    assert reason in caplog.text
    assert "the run continues" in caplog.text


def test_hiccup_of_the_server_loses_no_event_and_a_url_keeps_its_path_and_query(start, catalogue, caplog):
    catalogue.first = [503]
    lineage = start(f"{catalogue.url}/base/?token=hunter22")
    catalogue.wait(2)
    lineage.end("completed")
    assert kinds(catalogue) == [("demo", "START"), ("demo", "START"), ("demo", "COMPLETE")]
    assert "continues" not in caplog.text
    assert {call.path for call in catalogue.calls} == {"/base/api/v1/lineage?token=hunter22"}
