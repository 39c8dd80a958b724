"""Show a few images in Prefect that a stage kept and dropped, with the reasons, when it has made its snapshot.

A download also shows those of its newest tasks while it runs (`NewestTasks`).

The images are small and lie in the artefact itself, as `data:` URIs, which Prefect's UI shows: a browser that shows the
artefact needs no access to the store. A store with takedown requests has no such artefact, because one of its images
may be of a pair that somebody asked to remove. `pairmill takedown` deletes those of earlier runs (`delete_samples`).
"""

import base64
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import PrefectException

from dataops.escaping import escape_markdown
from dataops.formatting import format_percent, format_quantity
from dataops.redaction import redact
from dataops.snapshot import Counts, Manifest, Record
from dataops.store import Store
from dataops.trace.requests import list_requests
from infra.local import services
from tasks.download.report import read_samples
from tasks.engine.stage import Plan
from tasks.pack.card_samples import Row, sample_dropped, sample_kept_of_curate
from tasks.reports.page import shorten

logger = logging.getLogger(__name__)

KEY = "samples-"
"""Beginning of the keys of these artefacts; the stage follows."""
EMPTY = "No images."
"""Content of such an artefact before it gets images, and before it is deleted."""
STAGES = ("download", "curate")
"""Stages that see images."""
KEPT, DROPPED = 8, 12
"""Maximum number of images that are shown, of a few kilobytes each."""
COLUMNS = 4
CAPTION = 60
"""Maximum number of characters of a caption."""
NEWEST = 24
"""Number of finished tasks whose images a running download shows."""
FIRST_SECONDS, NEXT_SECONDS = 60.0, 600.0
"""Age of a download at which it shows images, and time until newer ones take their place."""


class NewestTasks:
    """Keeps the newest finished tasks of a stage, and decides when their images are shown."""

    def __init__(self, planned: Plan, clock: Callable[[], float] = time.monotonic):
        self._planned, self._clock = planned, clock
        self._records: deque[Record] = deque(maxlen=NEWEST)
        self._due = clock() + FIRST_SECONDS

    def add(self, record: Record) -> Manifest | None:
        """Add a finished task. Return its parts and those of the tasks before, as a manifest, if they are to be shown."""
        self._records.append(record)
        if self._planned.stage.name != "download" or self._clock() < self._due:
            return None
        self._due = self._clock() + NEXT_SECONDS
        return Manifest(
            stage=self._planned.stage.name,
            stage_version=self._planned.stage.version,
            key=self._planned.key,
            inputs=[],
            config={},
            seed=0,
            code={},
            parts=[part for one in self._records for part in one.parts],
            counts=sum((one.counts for one in self._records), Counts()),
            content_digest="",
            created_at="",
        )


def render_samples(stage: str, manifests: Mapping[str, Manifest], store: Store, *, running: bool = False) -> str | None:
    """Return the Markdown of the images of a stage; None if it has none, or the store has takedown requests.

    Args:
        running: whether the manifest of the stage has only its newest tasks.
    """
    if stage not in STAGES or list_requests(store):
        return None
    manifest = manifests[stage]
    lineage = {name: manifests[name] for name in STAGES[: STAGES.index(stage) + 1] if name in manifests}
    if "download" not in lineage:
        return None
    dropped = interleave([*sample_dropped(store, lineage)[stage].values()])
    kept = (
        read_samples(manifest, store, ["part-"]) if stage == "download" else sample_kept_of_curate(store, lineage, KEPT)
    )
    what, counts = f"So far, the newest tasks of {stage}" if running else stage, manifest.counts
    share = format_percent(counts.kept / counts.input, decimals=1) if counts.input else "none"
    parts = [
        f"{what} kept {counts.kept:,} of {format_quantity(counts.input, 'row')} ({share}).",
        *_render_group("Kept", kept, KEPT),
        *_render_group("Dropped", dropped, DROPPED),
    ]
    return "\n\n".join(parts) if len(parts) > 1 else None


def interleave(groups: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows of all groups, the first of each, then the second of each, and so on."""
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]


def _render_group(title: str, rows: Sequence[Row], most: int) -> list[str]:
    """Return a heading and a table of images, or nothing if no row has an image."""
    cells = [_render_cell(row) for row in rows if row.get("preview")][:most]
    if not cells:
        return []
    columns = min(COLUMNS, len(cells))
    cells += [""] * (-len(cells) % columns)
    lines = ["| " + " | ".join(cells[start : start + columns]) + " |" for start in range(0, len(cells), columns)]
    head = ["|" + "   |" * columns, "|" + "---|" * columns]
    return [f"## {title}", "\n".join([*head, *lines])]


def _render_cell(row: Mapping[str, Any]) -> str:
    image = base64.b64encode(row["preview"]).decode()
    caption = escape_markdown(shorten(row["caption"], CAPTION))
    reason = f"<br>**{escape_markdown(row['drop_reason'])}**" if row.get("drop_reason") else ""
    return f"![](data:image/jpeg;base64,{image})<br>{caption}{reason}"


def write_images(client: SyncPrefectClient, artefact: UUID, images: str) -> None:
    """Set the content of an artefact without an event.

    Prefect's server and client send events that have the content of a created, updated or deleted artefact. They stay in
    the database after the artefact is deleted. A request of our own to update an artefact causes none.
    """
    client.request("PATCH", "/artifacts/{id}", path_params={"id": artefact}, json={"data": images})


def delete_samples() -> int:
    """Delete all artefacts with images of the Prefect server that the environment names; return how many.

    Each is emptied before the first is deleted, since the event of a deletion has the content of it or of an older one.

    Raises: PrefectException, HTTPError if the server does not answer.
    """
    samples, found = ArtifactFilter(key=ArtifactFilterKey(like_=KEY)), list[UUID]()
    with get_client(sync_client=True) as client:
        while page := client.read_artifacts(artifact_filter=samples, offset=len(found)):
            found += [artefact.id for artefact in page]
        for artefact in found:
            write_images(client, artefact, EMPTY)
        for artefact in found:
            client.delete_artifact(artefact)
    return len(found)


def _overwrite_deleted(database: Path) -> None:
    """Write the local server's database anew, since free pages and the log still have what was deleted.

    If that fails, the search of the takedown names the file.
    """
    if database.exists():
        with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=10)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def try_to_delete_samples() -> dict[str, Any]:
    """Return how many artefacts with images were deleted, and the reason if some may be left, which is logged."""
    try:
        deleted = delete_samples()
        _overwrite_deleted(services.home() / "services" / "prefect" / "prefect.db")
        return {"deleted": deleted}
    except (PrefectException, HTTPError) as error:
        reason = redact(f"{type(error).__name__}: {error}")
        logger.warning("Prefect does not answer, so its artefacts %s* may still show removed images: %s", KEY, reason)
        return {"deleted": 0, "error": reason}
