"""Render the versions of a model for the run of a new one, which is compared with the champion or the version before."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataops.errors import PairmillError
from tasks.register.registration import Registration
from tasks.register.versions.comparison import LARGEST, VersionComparison, VersionSide, compare_versions, load_side
from tasks.register.versions.history import VersionRow, draw_versions, read_history
from tasks.register.versions.page import render_versions

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

PAGE, PLOT = "versions.html", "metric_history.png"
"""Artefacts of the run."""


def describe_versions(registration: Registration, version: "ModelVersion") -> dict[str, bytes | str]:
    """Return the page of all versions up to a new one, and the plot of their metrics, by the path in the run."""
    config = registration.work.config
    found = read_history(registration.client, config.model_name)
    rows = [row for row in found if int(row.version) <= int(version.version)]
    other = choose_other(rows, str(version.version), config.alias)
    comparison = _compare(registration, version, other) if other else None
    note = f"As of the registration of version {version.version}. Later versions have pages of their own."
    page = render_versions(f"Versions of {config.model_name}", rows, config.alias, comparison, note)
    return {PAGE: page, PLOT: draw_versions(rows, config.alias).png()}


def choose_other(rows: Sequence[VersionRow], version: str, alias: str) -> VersionRow | None:
    """Return the version to compare with: the champion, else the newest version before this one."""
    others = [row for row in rows if row.version != version]
    return next((row for row in others if alias in row.aliases), others[-1] if others else None)


def _compare(registration: Registration, version: "ModelVersion", other: VersionRow) -> VersionComparison | None:
    """Return the comparison; None if it fails, which is logged: a page must not fail a registration."""
    work = registration.work
    ours = VersionSide(f"version {version.version}", work.draft.store, work.inputs)
    try:
        theirs = load_side(f"version {other.version}", other.tags, work.draft.store)
        return compare_versions(theirs, ours, LARGEST)
    except (PairmillError, OSError, ValueError, KeyError) as error:
        logger.warning("register %s: no comparison with version %s: %s", work.draft.key, other.version, error)
        return None
