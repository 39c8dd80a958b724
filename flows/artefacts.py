"""The artefacts of a run in the Prefect UI: a card with its result and all links, the funnel, the config and the progress.

A run must not fail because it cannot be shown: the first request that the Prefect server does not accept is logged, and no
more are sent.
"""

import json
import logging
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
from dataops.formatting import format_percent
from dataops.funnel import funnel_rows
from dataops.redaction import redact
from dataops.snapshot import Manifest
from dataops.store import Store
from flows.records import RunRecord
from flows.watch.samples import EMPTY, KEY, render_samples, write_images
from tasks.checks.report import CheckReport
from tasks.register.config import describe_gate
from tasks.tracking import run_metadata

logger = logging.getLogger(__name__)

ERROR_LENGTH = 2000


class RunArtefacts:
    """Creates and updates the artefacts of one flow run."""

    def __init__(self) -> None:
        self._card: Any = None  # a UUID; the type that Prefect declares is also a coroutine
        self._progress: Any = None
        self._samples: dict[str, Any] = {}  # UUIDs by stage
        self._server_answers = True

    def begin(self, record: RunRecord) -> None:
        """Create the card, the config and the progress. Call it in the flow, so that they belong to no task run."""
        self._send(lambda: self._begin(record))

    def _begin(self, record: RunRecord) -> None:
        title = render_title(record)
        self._card = create_markdown_artifact(render_card(record, {}), key="result", description=title)
        create_markdown_artifact(render_config(record.config), key="config", description=f"Config of {record.run_id}")
        self._progress = create_progress_artifact(0.0, key="progress", description="starting")

    def update_progress(self, percent: float, description: str) -> None:
        """Set the progress of the present stage; the description is Markdown."""
        if self._progress is not None:
            self._send(lambda: update_progress_artifact(self._progress, percent, description=description))

    def create_checks(self, report: CheckReport) -> None:
        """Create the table of the checks of a dataset."""
        title = f"Checks of pack/{report.dataset}: {report.verdict}"
        self._send(lambda: create_table_artifact(report.markdown_rows(), key="checks", description=title))

    def show_samples(
        self, stage: str, manifests: Mapping[str, Manifest], store: Store, *, running: bool = False
    ) -> None:
        """Create or update the artefact with images that a stage kept and dropped, if it has any.

        Args:
            running: whether the manifest of the stage has only its newest tasks.
        """
        try:
            images = render_samples(stage, manifests, store, running=running)
        except Exception as error:  # a run that cannot be shown must not fail
            logger.warning("the images of %s are not shown in Prefect: %s: %s", stage, type(error).__name__, error)
            return
        if images is not None:
            self._send(lambda: self._show_samples(stage, images))

    def _show_samples(self, stage: str, images: str) -> None:
        if stage not in self._samples:
            title = f"Images that {stage} kept and dropped"
            self._samples[stage] = create_markdown_artifact(EMPTY, key=f"{KEY}{stage}", description=title)
        with get_client(sync_client=True) as client:
            write_images(client, self._samples[stage], images)

    def update_card(self, record: RunRecord, manifests: Mapping[str, Manifest]) -> None:
        """Write the present state and links of the run into its card."""
        if self._card is not None:
            update = ArtifactUpdate(data=render_card(record, manifests), description=render_title(record))
            self._send(lambda: self._update_card(update))

    def _update_card(self, update: ArtifactUpdate) -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(self._card, update)

    def end(self, record: RunRecord, manifests: Mapping[str, Manifest]) -> None:
        """Write the result into the card, and create the funnel."""
        if rows := render_funnel(manifests.values()):
            title = f"Rows of {record.run_id}, by stage"
            self._send(lambda: create_table_artifact(rows, key="funnel", description=title))
        self.update_card(record, manifests)
        if record.state == "completed":
            self.update_progress(100.0, "completed")

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


def render_card(record: RunRecord, manifests: Mapping[str, Manifest]) -> str:
    """Return the Markdown of the card: the state, the model, links to all pages, and the stages."""
    error = record.attempts[-1].error if record.attempts else None
    state = f"**{record.state.capitalize()}**" + (f": {escape_markdown(redact(error)[:ERROR_LENGTH])}" if error else "")
    blocks = [state]
    if register := manifests.get("register"):
        facts = register.facts
        alias = f", alias `{facts['alias']}`" if facts.get("alias") else ""
        blocks.append(f"Model: `{facts['model_uri']}`{alias}, {escape_markdown(describe_gate(facts['gate']))}")
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


def render_config(config: Mapping[str, Any]) -> str:
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
