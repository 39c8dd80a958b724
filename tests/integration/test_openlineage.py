"""OpenLineage events reach a server while a run goes; a server that is down changes nothing but one warning."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.kills.seaweed import free_port
from dataops.errors import ContractError
from dataops.snapshot import Counts, Input, Manifest
from dataops.store import FolderStore
from flows.watch.lineage import RunLineage
from tasks.engine.context import Context
from tasks.openlineage import sender
from tests.manifests import build_manifest
from tests.servers.recorder import Recorder, serve_recorder
from tests.unit.tasks.register.test_lineage_documents import as_openlineage

KEY = "key-of-the-catalogue-0123"
SOURCES = [Input(stage="source", key=f"https://user:hunter22@host/{n}.warc.gz", digest="0" * 64) for n in range(1200)]


@pytest.fixture(scope="module")
def catalogue() -> Iterator[Recorder]:
    with serve_recorder() as recorder:
        yield recorder


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalogue: Recorder) -> Any:
    """Return a function that begins the events of a run, to this catalogue or another URL."""
    catalogue.calls.clear()
    catalogue.status = 200
    monkeypatch.setenv(sender.API_KEY, KEY)
    monkeypatch.setattr("flows.watch.lineage.code_version", lambda: {"commit": "c" * 40})

    def begin(url: str = catalogue.url) -> RunLineage:
        monkeypatch.setenv(sender.URL, url)
        record: Any = SimpleNamespace(name="demo", run_id="demo-1")
        return RunLineage(record, Context(FolderStore(tmp_path), tmp_path, flow_run_url="http://prefect/run"))

    return begin


def plan(stage: str, *inputs: Input) -> Any:
    return SimpleNamespace(stage=SimpleNamespace(name=stage), inputs=inputs)


def fail(error: BaseException) -> Manifest:
    raise error


def kinds(catalogue: Recorder) -> list[tuple[str, str]]:
    return [(event["job"]["name"], event["eventType"]) for event in (call.json() for call in catalogue.calls)]


def test_events_of_a_completed_run(start, catalogue, tmp_path):
    lineage, made = start(), {}
    for stage in ("extract", "filter"):
        inputs = [one.as_input() for one in made.values()] or SOURCES
        manifest = build_manifest(stage, inputs=inputs, counts=Counts(input=3, kept=2, dropped={"a": 1}))
        made[stage] = lineage.follow(plan(stage, *inputs), lambda manifest=manifest: manifest)
        catalogue.wait(2 * len(made))  # they arrive while the run goes
    lineage.end("completed", None, made)
    assert kinds(catalogue) == [
        ("demo", "START"),
        ("demo.extract", "START"), ("demo.extract", "COMPLETE"),
        ("demo.filter", "START"), ("demo.filter", "COMPLETE"),
        ("demo", "COMPLETE"),
    ]  # fmt: skip
    events = [call.json() for call in catalogue.calls]
    for event in events:
        as_openlineage(event)  # OpenLineage's own classes refuse unknown fields and missing required ones
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


def test_events_of_a_failed_attempt_and_a_stopped_run(start, catalogue):
    lineage = start()
    with pytest.raises(ContractError):
        lineage.follow(plan("filter"), lambda: fail(ContractError(f"3 rows were lost, {KEY}")))
    with pytest.raises(KeyboardInterrupt):
        lineage.follow(plan("filter"), lambda: fail(KeyboardInterrupt()))
    lineage.end("crashed", "stopped in filter by Ctrl-C", {})
    catalogue.wait(6)
    assert kinds(catalogue) == [
        ("demo", "START"),
        ("demo.filter", "START"), ("demo.filter", "FAIL"),
        ("demo.filter", "START"), ("demo.filter", "ABORT"),
        ("demo", "ABORT"),
    ]  # fmt: skip
    events = [call.json() for call in catalogue.calls]
    for event in events:
        as_openlineage(event)
    assert events[2]["run"]["facets"]["errorMessage"]["message"] == "3 rows were lost, ***"
    assert events[5]["run"]["facets"]["errorMessage"]["message"] == "stopped in filter by Ctrl-C"
    assert events[1]["run"]["runId"] != events[3]["run"]["runId"], "each attempt is a run"


@pytest.mark.parametrize("trouble", ["down", "refuses", "no url"])
def test_server_that_accepts_no_events_is_one_warning(start, catalogue, trouble, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sender, "ATTEMPTS", 1)
    catalogue.status = 401
    down = f"http://user:hunter22@127.0.0.1:{free_port()}"
    lineage = start({"down": down, "refuses": catalogue.url, "no url": "catalogue"}[trouble])
    made = lineage.follow(plan("filter"), lambda: build_manifest("filter"))
    lineage.end("completed", None, {"filter": made})
    (warning,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert "OPENLINEAGE_URL" in warning.getMessage()
    assert "the run continues" in warning.getMessage()
    assert KEY not in caplog.text
    assert "hunter22" not in caplog.text


def test_hiccup_of_the_server_loses_no_event(start, catalogue, monkeypatch, caplog):
    catalogue.status = 503
    monkeypatch.setattr(sender.time, "sleep", lambda _: setattr(catalogue, "status", 200))
    lineage = start()
    catalogue.wait(2)
    lineage.end("completed", None, {})
    assert kinds(catalogue) == [("demo", "START"), ("demo", "START"), ("demo", "COMPLETE")]
    assert "continues" not in caplog.text


@pytest.mark.parametrize("disabled", [True, False])
def test_no_event_is_sent_unless_a_server_is_named(start, catalogue, monkeypatch, disabled):
    monkeypatch.setenv(sender.DISABLED, "true" if disabled else "")
    lineage = start(catalogue.url if disabled else "")
    assert lineage.follow(plan("filter"), lambda: build_manifest("filter")).stage == "filter"
    lineage.end("completed", None, {})
    assert catalogue.calls == []
