"""The figures that runs write, and the endpoint that Prometheus reads."""

import json
import multiprocessing
import re
import subprocess
import sys
import time
import urllib.request
from urllib.error import HTTPError

import pytest

from dataops.facts import DownloadFacts
from dataops.home import CHECKOUT
from dataops.snapshot import Counts, Part
from flows.listeners.base import StageEnd
from infra.local import supervisor
from plugins.metrics import figures
from plugins.metrics.endpoint import GPU_FIELDS
from plugins.metrics.listener import Metrics
from tasks.web.host_state import HostState
from tests.concurrency import wait_for
from tests.kills.seaweed import free_port
from tests.live_runs import build_live_run
from tests.manifests import build_manifest


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def endpoint(home):
    """Serve the figures of the home on a free port."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "plugins.metrics.endpoint", "--port", str(port)], cwd=CHECKOUT) as one:
        wait_for(lambda: supervisor.answers(port, "/favicon.ico"))
        yield f"http://127.0.0.1:{port}/metrics"
        one.kill()


def scrape(url):
    """Return the samples of an endpoint by name and sorted labels, as Prometheus' own parser reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(url, timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        f"{sample.name} {' '.join(sorted(sample.labels.values()))}".strip(): sample.value
        for family in families
        for sample in family.samples
    }


def run_once(folder, number=1):
    """Let the listener see a download of 10 rows, a failed training, and the end."""
    run = build_live_run(folder / "store", name="nightly")
    metrics = Metrics(run)
    metrics.begin()
    run.stage = "download"
    metrics.progress(1, 4, "x")
    facts = {"shards": 1, "samples": 7, "bytes_fetched": 900, "hosts": {}}
    manifest = build_manifest(
        "download",
        [Part(name="0.tar", rows=7, bytes=500, sha256="")],
        counts=Counts(input=10, kept=7, dropped={"http_404": 2, "timeout": 1}),
        facts=DownloadFacts.model_validate(facts).as_json(),
    )
    metrics.stage_ended(StageEnd("download", "Completed", 2.5, manifest))
    metrics.stage_ended(
        StageEnd("extract", "Reused", 0.5, build_manifest("extract", [], counts=Counts(input=9, kept=9)))
    )
    run.stage = "train"
    metrics.attempt_failed(ValueError("x"))
    metrics.ended("completed" if number == 1 else "failed", None)


def test_endpoint_serves_what_runs_add_up(home, endpoint):
    run_once(home)
    run_once(home, 2)
    (figures.folder() / "folder.json").mkdir()
    (figures.folder() / "number.json").write_text('[["runs", [5], 3]]')
    for host, addresses in (("a.test", [(2, ("8.8.8.8", 0))]), ("none.test", []), ("a.test", [(2, ("8.8.4.4", 0))])):
        HostState(home / "hosts" / "web").put_addresses(host, addresses, 60)
    found = scrape(endpoint)
    expected = {
        "rows_total nightly download": 14,
        "dropped_rows_total nightly download http_404": 4,
        "image_requests_total nightly ok": 14,
        "image_requests_total nightly timeout": 2,
        "fetched_bytes_total nightly": 1800,
        "written_bytes_total nightly download": 1000,
        "stages_total nightly extract Reused": 2,
        "stage_seconds_total nightly download": 5,
        "failed_attempts_total nightly train ValueError": 2,
        "runs_total nightly completed": 1,
        "runs_total nightly failed": 1,
        "run_active nightly": 0,
        "runs_total number 5": 3,
        "stage_progress_ratio nightly download": 0.25,
        "service_up prefect": 0,
        "dns_lookups_total found": 2,
        "dns_lookups_total none": 1,
    }
    for name, value in expected.items():
        figure, *labels = name.split()
        assert found[" ".join([f"pairmill_{figure}", *sorted(labels)])] == value
    assert "pairmill_rows_total extract nightly" not in found, "a reused stage keeps no row"
    assert time.time() - found["pairmill_run_success_timestamp_seconds nightly"] < 600
    assert found["pairmill_disk_free_bytes"] > 0
    with pytest.raises(HTTPError, match="421"):
        urllib.request.urlopen(urllib.request.Request(endpoint, headers={"Host": "rebound.test"}), timeout=30)
    taken = ["--port", re.findall(r"\d+", endpoint)[-1]]
    for command in (["plugins.metrics.endpoint"], ["flows.cli", "metrics", "--host", "127.0.0.1"]):
        line = [sys.executable, "-m", *command, *taken]
        refused = subprocess.run(line, cwd=CHECKOUT, capture_output=True, check=False)
        assert b"cannot listen there" in refused.stderr
        assert not refused.stdout, "a URL only once it listens"
        assert b"Traceback" not in refused.stderr


def test_runs_write_nothing_before_somebody_asks_for_metrics(home):
    run_once(home)
    assert not (home / "metrics").exists()


def _add(times):
    for _ in range(times):
        figures.add("nightly", {("runs", ("completed",)): 1}, {})


def test_runs_at_the_same_time_lose_no_figure_and_a_damaged_file_begins_anew(home):
    figures.folder().mkdir()
    (figures.folder() / "nightly.json").write_text("[[")
    both = [multiprocessing.get_context("fork").Process(target=_add, args=(100,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert figures.read(figures.folder() / "nightly.json") == {("runs", ("completed",)): 200}


def test_panels_of_the_dashboard_show_figures_that_exist():
    dashboard = json.loads((CHECKOUT / "infra" / "grafana.json").read_text())
    known = {f"{name}_total" for name in figures.COUNTERS} | set(figures.GAUGES)
    known |= {name for name, *_ in GPU_FIELDS.values()} | {
        "flow_runs",
        "work_pool_ready",
        "service_up",
        "disk_free_bytes",
    }
    used = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"pairmill_(\w+)", target["expr"])
    }
    assert used <= known
    assert known - used <= {"stages_total", "run_changed_timestamp_seconds"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
