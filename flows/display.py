"""What a person sees of a run: progress on the terminal and in the Prefect UI, the funnel, links. Decides nothing."""

import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_UI_URL
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dataops.escaping import markdown
from dataops.funnel import funnel_rows
from dataops.redaction import redact, shown, without_credentials
from dataops.snapshot import Manifest

logger = logging.getLogger(__name__)
for _package in ("flows", "infra", "tasks"):  # Prefect adds its handlers to these loggers and leaves them at WARNING
    logging.getLogger(_package).setLevel(logging.INFO)

ARTEFACT_SECONDS = 2.0
"""Least time between two updates of a progress artefact: each is a request to the Prefect server."""


class RunDisplay:
    """Shows one run."""

    def __init__(self, run_id: str):
        self.run_id = run_id
        self._stage = ""
        self._bar: Progress | None = None
        self._artefact: UUID | None = None
        self._updated = 0.0
        self._seen = True

    @staticmethod
    def flow_run_url(flow_run_id: str) -> str | None:
        """Address of the flow run's page, where the UI's address is known."""
        ui = PREFECT_UI_URL.value()
        return f"{without_credentials(ui).rstrip('/')}/runs/flow-run/{flow_run_id}" if ui else None

    @contextmanager
    def watch(self, stage: str) -> Iterator[None]:
        """Show the stage's progress while it runs: a bar where standard error is a terminal."""
        self._stage, self._artefact, self._updated = stage, None, 0.0
        if not sys.stderr.isatty():
            yield
            return
        handlers = [(handler, handler.level) for handler in logging.getLogger().handlers]
        for handler, _ in handlers:  # lines of the log would break the bar; the Prefect UI still gets them
            handler.setLevel(logging.WARNING)
        columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, TextColumn("{task.fields[line]}", markup=False), console=Console(stderr=True), transient=True
        ) as bar:
            self._bar = bar
            bar.add_task(stage, total=None, line="")
            try:
                yield
            finally:
                self._bar = None
                for handler, level in handlers:
                    handler.setLevel(level)

    def progress(self, done: int, total: int, line: str) -> None:
        """Called by the stage as its parts finish."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, line=shown(line)[-60:])
        logger.debug("%s", line)
        now = time.monotonic()
        if now - self._updated < ARTEFACT_SECONDS and done < total:
            return
        self._updated = now
        if self._seen:
            try:
                self._tell(done, total, line)
            except (PrefectException, HTTPError) as error:  # a lost picture of a run must not become the run's end
                self._seen = False
                logger.warning(
                    "the Prefect server shows this run's progress no further: %s: %s", type(error).__name__, error
                )

    def _tell(self, done: int, total: int, line: str) -> None:
        """Make or update the stage's progress artefact."""
        percent = 100.0 * done / max(total, 1)
        said = f"{self._stage}: {done} of {total}. {markdown(redact(line))}"
        if self._artefact is None:
            key = re.sub(r"[^a-z0-9]+", "-", f"{self._stage}-{self.run_id}".lower()).strip("-")
            self._artefact = _uuid(create_progress_artifact(percent, key=key, description=said))
        else:
            update_progress_artifact(self._artefact, percent, description=said)

    def stage_ended(self, manifest: Manifest, state: str, seconds: float) -> None:
        """One line a stage."""
        counts = manifest.counts
        reasons = ", ".join(
            f"{reason} {n:,}" for reason, n in sorted(counts.dropped.items(), key=lambda x: (-x[1], x[0]))
        )
        kept = f": kept {counts.kept:,} of {counts.input:,}" if counts.input else ""
        kept += f" ({reasons})" if reasons else ""
        logger.info("%s %s %s in %.1f s%s", manifest.stage, manifest.key, state.lower(), seconds, kept)

    def run_ended(self, manifests: Sequence[Manifest]) -> None:
        """The funnel as a table artefact and the MLflow run as a link artefact."""
        try:
            self._create_artefacts(manifests)
        except (PrefectException, HTTPError) as error:  # a lost picture of a run must not become the run's end
            logger.warning("the Prefect server did not take the run's artefacts: %s", error)

    def _create_artefacts(self, manifests: Sequence[Manifest]) -> None:
        if manifests:
            create_table_artifact(funnel_rows(manifests), key="funnel", description=f"Rows of {self.run_id}, by stage")
        for manifest in manifests:
            links: dict[str, Any] = manifest.facts.get("links", {}) if manifest.stage == "register" else {}
            for name, link in sorted(links.items()):
                if not str(link).startswith(("http://", "https://")):
                    continue  # a page would make a link of it
                key = "mlflow-" + re.sub(r"[^a-z0-9]+", "-", name.lower())
                create_link_artifact(link, link_text=f"MLflow: {name}", key=key, description=self.run_id)


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))
