"""The endpoint: `python -m plugins.metrics.endpoint --port PORT [--host HOST]`. prometheus-client serves and formats."""

import argparse
import csv
import json
import logging
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dataops.errors import ConfigError
from infra.local import services
from plugins.metrics.figures import COUNTERS, GAUGES, PREFIX, folder, read
from tasks.engine.process_guard import guard_process
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState
from tasks.web.named_server import send_request

logger = logging.getLogger(__name__)

QUEUE_STATES = ("Scheduled", "Late", "AwaitingConcurrencySlot", "AwaitingRetry", "Pending", "Running")
GPU_FIELDS = {
    "utilization.gpu": ("gpu_utilization_ratio", 0.01, "Share of the time in which the GPU worked."),
    "memory.used": ("gpu_memory_used_bytes", 2**20, "Memory of the GPU in use."),
    "memory.total": ("gpu_memory_bytes", 2**20, "Memory of the GPU."),
}
"""Names of nvidia-smi, of our figures, and the unit of the former in that of the latter."""


class ProjectCollector:
    """Reads the figures of a project when it is asked."""

    def describe(self) -> list[Metric]:
        """Return nothing: the names need no check at the start."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all figures; what does not answer is left out."""
        yield from collect_runs()
        yield collect_lookups()
        yield collect_services()
        yield from collect_queue()
        yield from collect_gpus()
        free = GaugeMetricFamily(f"{PREFIX}disk_free_bytes", "Free disk space of the home.")
        free.add_metric((), shutil.disk_usage(folder()).free)
        yield free


def collect_runs() -> Iterator[Metric]:
    """Yield the figures that flow runs have written, by the name of their config."""
    files = {path.stem: read(path) for path in sorted(folder().glob("*.json"))}
    for kinds, build in ((COUNTERS, CounterMetricFamily), (GAUGES, GaugeMetricFamily)):
        for name, (meaning, labels) in kinds.items():
            family = build(f"{PREFIX}{name}", meaning, labels=("config", *labels))
            for config, samples in files.items():
                for (found, values), number in samples.items():
                    if found == name and len(values) == len(labels):
                        family.add_metric((config, *values), number)
            yield family


def collect_lookups() -> Metric:
    """Return how many look-ups of host names the downloads of this machine have made."""
    family = CounterMetricFamily(f"{PREFIX}dns_lookups", "Look-ups of hosts by downloads.", labels=("result",))
    totals = Counter(found=0, none=0)
    for path in services.home().glob("hosts/*/notes.sqlite"):
        (counts,) = HostState(path.parent).execute(
            "SELECT json_group_array(json_array(found, number)) FROM lookups"
        ) or ("[]",)
        totals.update({"found" if found else "none": number for found, number in json.loads(counts)})
    for result, number in totals.items():
        family.add_metric((result,), number)
    return family


def collect_services() -> Metric:
    """Return whether each server and worker of this home answers."""
    family = GaugeMetricFamily(f"{PREFIX}service_up", "1 if a server or worker answers.", labels=("service",))
    for service in services.status():
        family.add_metric((service.name,), float(service.healthy))
    return family


def collect_queue() -> Iterator[Metric]:
    """Yield the number of flow runs by state, and whether the work pools have a worker, as Prefect knows them."""
    runs = GaugeMetricFamily(f"{PREFIX}flow_runs", "Flow runs that have not ended, by state.", labels=("state",))
    pools = GaugeMetricFamily(f"{PREFIX}work_pool_ready", "1 if a work pool has a worker.", labels=("pool",))
    for state in QUEUE_STATES:
        chosen: dict[str, Any] = {"state": {"name": {"any_": [state]}}}
        if state == "Scheduled":  # not those of the next days
            chosen["expected_start_time"] = {"before_": _now()}
        count = _ask("/flow_runs/count", {"flow_runs": chosen})
        if count is None:
            return
        runs.add_metric((state,), count)
    for pool in _ask("/work_pools/filter", {}) or []:
        pools.add_metric((pool["name"],), float(pool.get("status") == "READY"))
    yield runs
    yield pools


def collect_gpus() -> Iterator[Metric]:
    """Yield use and memory of the GPUs of this machine, from nvidia-smi."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return
    command = [tool, f"--query-gpu=index,{','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("nvidia-smi failed: %s", error)
        return
    rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())]
    for column, (name, unit, meaning) in enumerate(GPU_FIELDS.values(), 1):
        family = GaugeMetricFamily(f"{PREFIX}{name}", meaning, labels=("gpu",))
        for row in rows:
            with suppress(ValueError, IndexError):  # "[N/A]"
                family.add_metric((row[0],), float(row[column]) * unit)
        yield family


def _ask(path: str, body: dict[str, Any]) -> Any:
    """Return what Prefect answers to a request, or None."""
    api = next((service.url for service in services.status() if service.name == "prefect" and service.healthy), "")
    if not api:
        return None
    headers = services.authorization(f"{api}{path}") | {"Content-Type": "application/json"}
    try:
        status, answer, _ = send_request(f"{api}{path}", headers=headers, body=json.dumps(body).encode(), timeout=5)
    except FetchError as error:
        logger.warning("Prefect does not answer: %s", error)
        return None
    return json.loads(answer) if status == 200 else None


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat()


def refuse_rebound(application: Callable[..., Any]) -> Callable[..., Any]:
    """Return a WSGI application that answers only to names of this machine: a web page may rebind its own to 127.0.0.1."""

    def answer(environ: Mapping[str, Any], start: Callable[..., Any]) -> Any:
        if environ.get("HTTP_HOST", "").partition(":")[0] in ("127.0.0.1", "localhost"):
            return application(environ, start)
        start("421 Misdirected Request", [("Content-Type", "text/plain")])
        return [b"This endpoint answers only as 127.0.0.1 or localhost; see --host.\n"]

    return answer


def main(arguments: Sequence[str] | None = None, started: Callable[[], object] = lambda: None) -> None:
    """Serve until the process is ended; call `started` once it listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(arguments)
    guard_process()
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    registry = CollectorRegistry()
    registry.register(ProjectCollector())  # pyright: ignore[reportArgumentType]
    try:
        server, _ = start_http_server(options.port, options.host, registry)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {options.host} --port {options.port}: cannot listen there ({error})") from error
    if options.host == "127.0.0.1":
        server.set_app(refuse_rebound(make_wsgi_app(registry)))
    started()
    threading.Event().wait()


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        raise SystemExit(str(error)) from None
