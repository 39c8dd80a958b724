"""The artefacts of a run in the Prefect UI: a card with its result and all links, the funnel, the config and the progress.

A run must not fail because it cannot be shown: the first request that the Prefect server does not accept is logged, and no
more are sent.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from httpx import HTTPError
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException

from dataops.escaping import escape_markdown
from dataops.facts import RegisterFacts, funnel_rows
from dataops.formatting import format_percent
from dataops.redaction import redact
from dataops.snapshot import Manifest
from dataops.stages import STAGES, RunState
from flows.listeners.base import LiveRun, RunListener
from flows.listeners.progress import StageProgress
from flows.records import RunRecord
from tasks.checks.check import CheckReport
from tasks.engine.stage import Plan
from tasks.register.config import describe_gate
from tasks.tracking import run_metadata

logger = logging.getLogger(__name__)

ERROR_LENGTH = 2000
UPDATE_SECONDS = 2.0
"""Minimum time between two updates of the progress: each is a request to the Prefect server."""


class Artefacts(RunListener):
    """Creates and updates the artefacts of one flow run."""

    order = 30

    def __init__(self, run: LiveRun):
        super().__init__(run)
        self._card: Any = None  # a UUID; the type that Prefect declares is also a coroutine
        self._bar: Any = None
        self._server_answers = True
        self._links, self._checks = run.record.model_links, run.record.checks
        self._progress, self._updated = StageProgress(""), 0.0

    def begin(self) -> None:
        """Create the card, the config and the progress. In the flow, so that they belong to no task run."""
        self._send(self._create)

    def _create(self) -> None:
        record = self.run.record
        self._card = create_markdown_artifact(render_card(record, {}), key="result", description=render_title(record))
        create_markdown_artifact(render_config(record.config), key="config", description=f"Config of {record.run_id}")
        self._bar = create_progress_artifact(0.0, key="progress", description="starting")

    def stage_started(self, planned: Plan) -> None:
        self._show_checks()
        self._progress, self._updated = StageProgress(planned.stage.name), 0.0

    def making(self, planned: Plan, *, elsewhere: bool) -> None:
        if self._links != self.run.record.model_links:  # MLflow's run has begun
            self._update_card()

    def progress(self, done: float, total: int, line: str) -> None:
        self._progress.update(done, total, line)
        now = time.monotonic()
        if now - self._updated < UPDATE_SECONDS and done < total:
            return
        self._updated = now
        percent, stage = 100.0 * done / max(total, 1), self._progress.stage
        texts = [self._progress.format_done(), self._progress.format_left(), escape_markdown(redact(line))]
        number = f"stage {STAGES.index(stage) + 1} of {len(STAGES)}, " if stage in STAGES else ""
        self._set_bar(percent, f"{number}{stage}: {', '.join(filter(None, texts))}")

    def ended(self, state: RunState, error: str | None) -> None:
        """Write the result into the card, and create the funnel."""
        self._show_checks()
        if rows := render_funnel(self.run.manifests.values()):
            title = f"Rows of {self.run.record.run_id}, by stage"
            self._send(lambda: create_table_artifact(rows, key="funnel", description=title))
        self._update_card()
        if state == "completed":
            self._set_bar(100.0, "completed")

    def _set_bar(self, percent: float, description: str) -> None:
        """Set the progress of the present stage; the description is Markdown."""
        if self._bar is not None:
            self._send(lambda: update_progress_artifact(self._bar, percent, description=description))

    def _show_checks(self) -> None:
        """Create the table of the checks of the dataset, once for each new report."""
        report = self.run.record.checks
        if report is not None and report is not self._checks and report.results:
            table, title = render_checks(report), f"Checks of pack/{report.dataset}: {report.verdict}"
            self._send(lambda: create_markdown_artifact(table, key="checks", description=title))
        self._checks = report

    def _update_card(self) -> None:
        """Write the present state and links of the run into its card."""
        self._links = self.run.record.model_links
        if self._card is None:
            return
        line = self.run.version.describe() if self.run.version else ""
        data, title = render_card(self.run.record, self.run.manifests, line), render_title(self.run.record)
        self._send(lambda: self._write_card(ArtifactUpdate(data=data, description=title)))

    def _write_card(self, update: ArtifactUpdate) -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(self._card, update)

    def _send(self, request: Callable[[], Any]) -> None:
        if not self._server_answers:
            return
        try:
            request()
        except (PrefectException, HTTPError) as error:
            self._server_answers = False
            message = "the Prefect server did not accept an artefact, no more will be sent: %s: %s"
            logger.warning(message, type(error).__name__, error)


def render_title(record: RunRecord) -> str:
    """Return the line of the card in lists of artefacts, in which its text is not shown."""
    return f"{record.state}, {record.model_version or 'no model'}: links to all pages of {record.run_id}"


def render_card(record: RunRecord, manifests: Mapping[str, Manifest], version: str = "") -> str:
    """Return the Markdown of the card: the state, the version, the model, links to all pages, and the stages."""
    error = record.attempts[-1].error if record.attempts else None
    state = f"**{record.state.capitalize()}**" + (f": {escape_markdown(redact(error)[:ERROR_LENGTH])}" if error else "")
    blocks = [state, escape_markdown(version)]
    if register := manifests.get("register"):
        facts = RegisterFacts.of(register)
        alias = f", alias `{facts.alias}`" if facts.alias else ""
        blocks.append(f"Model: `{facts.model_uri}`{alias}, {escape_markdown(describe_gate(facts.gate))}")
    if record.checks is not None:
        blocks.append(f"Checks: {escape_markdown(record.checks.verdict)}")
    # The UI would make a link of any other text as well.
    links = {name: url for name, url in record.model_links.items() if url.startswith(("http://", "https://"))}
    blocks.append("\n".join(f"- [MLflow: {name}]({url})" for name, url in links.items()))
    stages = [one.model_dump() for one in record.stages]
    blocks.append(run_metadata.render_stages(stages, manifests))
    command = "show" if record.state in ("running", "completed") else "rerun"
    blocks.append(f"In a terminal: `pairmill {command} {record.run_id}`")
    return "\n\n".join(block for block in blocks if block)


def render_checks(report: CheckReport) -> str:
    """Return the results of checks as a Markdown table: cells of Prefect's own tables are Markdown in one UI only."""
    rows = [("check", "result", "figure"), *(tuple(map(escape_markdown, row.values())) for row in report.rows())]
    head, *lines = [run_metadata.format_table_row(*row) for row in rows]
    return "\n".join([head, "|:--|:--|:--|", *lines])


def render_config(config: Mapping[str, object]) -> str:
    """Return the Markdown of a run's config, without credentials."""
    text = json.dumps(run_metadata.redact_values(config), indent=2)  # ASCII: no character can turn or hide text
    return f"```json\n{text.replace('```', '` ` `')}\n```"


def render_funnel(manifests: Iterable[Manifest]) -> list[dict[str, str]]:
    """Return the rows of the funnel's table, as people read them."""
    return [
        {
            "stage": row["stage"],
            "rows in": f"{row['input']:,}",
            "kept": f"{row['kept']:,}",
            "dropped": f"{row['dropped']:,}",
            "why": row["reason"],
            "share of rows in": format_percent(row["share"]),
        }
        for row in funnel_rows(manifests)
    ]
