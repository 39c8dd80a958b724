"""The figures of a project's runs, in a file for each config name: flow runs add to it, the endpoint reads it.

A flow run is too short for an endpoint of its own, and several may work at the same time.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from dataops.home import home

logger = logging.getLogger(__name__)

PREFIX = "pairmill_"
COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "runs": ("Flow runs that ended.", ("state",)),
    "stages": ("Stages that ended.", ("stage", "outcome")),
    "stage_seconds": ("Wall time of stages.", ("stage",)),
    "rows": ("Rows that stages kept.", ("stage",)),
    "dropped_rows": ("Rows that stages dropped.", ("stage", "reason")),
    "written_bytes": ("Bytes of new snapshots.", ("stage",)),
    "fetched_bytes": ("Bytes of the responses to image requests.", ()),
    "image_requests": ("Images that were requested, by ok or the reason of the failure.", ("result",)),
    "failed_attempts": ("Attempts to make a snapshot that failed; most are retried.", ("stage", "error")),
}
"""What only grows, with its labels; each also has the label `config`."""
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "run_active": ("1 while a flow run works.", ()),
    "run_changed_timestamp_seconds": ("Time of the last change of the other figures.", ()),
    "run_success_timestamp_seconds": ("Time at which a run last completed.", ()),
    "stage_progress_ratio": ("Finished share of the stage that is made.", ("stage",)),
    "waits": ("Number of waits: for hosts, leases, servers, retries.", ()),
    "longest_wait_seconds": ("How long the longest of them has lasted.", ()),
}
"""What goes up and down; a value is that of the flow run that wrote last."""

Sample = tuple[str, tuple[str, ...]]
"""The name of a figure, and the values of its labels."""


def folder() -> Path:
    """Return the folder of the figures; runs write there only if it exists."""
    return home() / "metrics"


def add(config: str, counters: Mapping[Sample, float], gauges: Mapping[Sample, float]) -> None:
    """Add to counters, and set gauges: all figures of one name that are not in a call keep their values.

    Of a gauge with labels only the last labels stay, such as the stage that is made now.
    """
    path = folder() / f"{config}.json"
    with FileLock(path.with_suffix(".lock"), timeout=60):
        figures = read(path)
        for sample, value in counters.items():
            figures[sample] = figures.get(sample, 0.0) + value
        changed = {name for name, _ in gauges}
        figures = {sample: value for sample, value in figures.items() if sample[0] not in changed} | dict(gauges)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps([[name, labels, value] for (name, labels), value in figures.items()]), "utf-8")
        temporary.replace(path)


def read(path: Path) -> dict[Sample, float]:
    """Return the figures of a file; none of a file that is missing, or that a power loss has emptied."""
    try:
        return {
            (name, tuple(map(str, labels))): float(value) for name, labels, value in json.loads(path.read_text("utf-8"))
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s is not valid and starts again: %s", path, error)
        return {}
