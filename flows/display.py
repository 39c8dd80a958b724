"""Shows a run to people: progress on the terminal and in the Prefect UI, the funnel and links. Makes no decision."""

import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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

from dataops.escaping import escape_markdown
from dataops.formatting import format_counts
from dataops.funnel import funnel_rows
from dataops.redaction import escape_for_display, redact, remove_credentials
from dataops.snapshot import Manifest

logger = logging.getLogger(__name__)
for _package in ("flows", "infra", "tasks"):  # Prefect adds its handlers to these loggers and leaves them at WARNING
    logging.getLogger(_package).setLevel(logging.INFO)

ARTEFACT_SECONDS = 2.0
"""Minimum time between two updates of a progress artefact: each is a request to the Prefect server."""


class RunDisplay:
    """Shows the progress and the result of one run."""

    def __init__(self, run_id: str):
        self.run_id = run_id
        self._stage = ""
        self._bar: Progress | None = None
        self._artefact: Any = None  # its UUID; the type that Prefect declares is also a coroutine
        self._updated = 0.0
        self._server_answers = True

    @staticmethod
    def flow_run_url(flow_run_id: str) -> str | None:
        """Return the URL of the flow run's page, or None if the UI's URL is not known."""
        ui = PREFECT_UI_URL.value()
        return f"{remove_credentials(ui).rstrip('/')}/runs/flow-run/{flow_run_id}" if ui else None

    @contextmanager
    def watch(self, stage: str) -> Iterator[None]:
        """Show the stage's progress while it runs, as a bar if standard error is a terminal."""
        self._stage, self._artefact, self._updated = stage, None, 0.0
        if not sys.stderr.isatty():
            yield
            return
        handlers = [(handler, handler.level) for handler in logging.getLogger().handlers]
        for handler, _ in handlers:  # log lines would break the bar; the Prefect UI still gets them
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
        """Show that `done` of `total` parts are finished; the stage calls it, with a line about the last part."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, line=escape_for_display(line)[-60:])
        logger.debug("%s", line)
        now = time.monotonic()
        if now - self._updated < ARTEFACT_SECONDS and done < total:
            return
        self._updated = now
        if self._server_answers:
            try:
                self._update_artefact(done, total, line)
            except (PrefectException, HTTPError) as error:  # a run must not fail because it cannot be shown
                self._server_answers = False
                message = "the Prefect server did not accept a progress update, no more will be sent: %s: %s"
                logger.warning(message, type(error).__name__, error)

    def _update_artefact(self, done: int, total: int, line: str) -> None:
        """Create or update the stage's progress artefact."""
        percent = 100.0 * done / max(total, 1)
        description = f"{self._stage}: {done} of {total}. {escape_markdown(redact(line))}"
        if self._artefact is None:
            key = re.sub(r"[^a-z0-9]+", "-", f"{self._stage}-{self.run_id}".lower()).strip("-")
            self._artefact = create_progress_artifact(percent, key=key, description=description)
        else:
            update_progress_artifact(self._artefact, percent, description=description)

    def log_stage(self, manifest: Manifest, state: str, seconds: float) -> None:
        """Log one line about a finished stage: its key, state, time and counts."""
        counts = manifest.counts
        reasons = format_counts(sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0])))
        kept = f": kept {counts.kept:,} of {counts.input:,}" if counts.input else ""
        kept += f" ({reasons})" if reasons else ""
        logger.info("%s %s %s in %.1f s%s", manifest.stage, manifest.key, state.lower(), seconds, kept)

    def create_artefacts(self, manifests: Sequence[Manifest]) -> None:
        """Create the funnel as a table artefact and the links to MLflow as link artefacts."""
        try:
            self._create_artefacts(manifests)
        except (PrefectException, HTTPError) as error:  # a run must not fail because it cannot be shown
            logger.warning("the Prefect server did not accept the run's artefacts: %s", error)

    def _create_artefacts(self, manifests: Sequence[Manifest]) -> None:
        if manifests:
            create_table_artifact(funnel_rows(manifests), key="funnel", description=f"Rows of {self.run_id}, by stage")
        for manifest in manifests:
            links: dict[str, Any] = manifest.facts.get("links", {}) if manifest.stage == "register" else {}
            for name, link in sorted(links.items()):
                if not str(link).startswith(("http://", "https://")):
                    continue  # the UI would turn any other text into a link as well
                key = "mlflow-" + re.sub(r"[^a-z0-9]+", "-", name.lower())
                create_link_artifact(link, link_text=f"MLflow: {name}", key=key, description=self.run_id)
