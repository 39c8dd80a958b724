"""What a run tells the Prefect server, for triggers and notifications: a dataset landed, a candidate was trained, a
champion promoted.

Each snapshot that a run made is told of once, after the record is closed. A run that was killed between the two tells it
when it is continued. Nobody needs to hear it: what is not delivered never fails a run.
"""

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from dataops.snapshot import Manifest
from dataops.store import Store
from flows.records import RunRecord
from training.evaluation.intervals import summary_rows

LANDED = "pairmill.dataset.landed"
TRAINED = "pairmill.candidate.trained"
PROMOTED = "pairmill.champion.promoted"
EVENTS = {"pack": LANDED, "train": TRAINED, "register": PROMOTED}
SCORES = 8
"""Scores that the event of a new champion carries."""


def announce(record: RunRecord, manifests: Mapping[str, Manifest], store: Store, until: str | None) -> bool:
    """Emit an event for each snapshot that this run made and has not told of; whether there was any.

    Args:
        until: the last stage that the flow run was to run; None for all.
    """
    ours = {attempt.flow_run_id for attempt in record.attempts}
    told = False
    for stage, event in EVENTS.items():
        manifest = manifests.get(stage)
        if manifest is None or manifest.prefect_flow_run_id not in ours or _name(manifest) in record.announced:
            continue
        emit_event(event, resource=_resource(record, manifest, store, until), payload=_payload(manifest, manifests))
        record.announced.append(_name(manifest))
        told = True
    return told


def _name(manifest: Manifest) -> str:
    return f"{manifest.stage}/{manifest.key}"


def _resource(record: RunRecord, manifest: Manifest, store: Store, until: str | None) -> dict[str, str]:
    """The labels by which triggers choose, and which they hand on."""
    kind = EVENTS[manifest.stage].rpartition(".")[0]
    return {
        "prefect.resource.id": f"{kind}.{manifest.key}",
        "prefect.resource.name": f"{record.name} {kind.rpartition('.')[2]} {manifest.key}",
        "pairmill.run": record.run_id,
        "pairmill.store": store.uri,
        "pairmill.until": until or "register",
        "pairmill.begun-by": record.begun_by,
    }


def _payload(manifest: Manifest, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Numbers and names of our own making: nothing in here is text from the web."""
    payload: dict[str, Any] = {"counts": manifest.counts.model_dump(mode="json"), "digest": manifest.content_digest}
    if manifest.stage == "train":
        payload |= {"model": manifest.facts["model"], "final": manifest.facts["final"]}
    if manifest.stage == "register":
        payload |= {name: manifest.facts[name] for name in ("model_uri", "model_name", "version", "alias", "links")}
        rows = summary_rows(manifests["evaluate"].facts["metrics"])
        scores = [{"name": row["key"], "value": row["value"]} for row in rows if row["value"] is not None]
        payload["scores"] = scores[:SCORES]
    return payload
