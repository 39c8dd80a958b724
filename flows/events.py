"""Emits events to the Prefect server when a dataset landed, a candidate was trained or a champion was promoted.

A download with images on lists of known harmful images emits one too.

Triggers and notifications react to them. Each snapshot that a run made gets one event, after the record is closed; if the
run is killed before that, its rerun emits the event. An event that cannot be delivered never fails a run.
"""

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from dataops.snapshot import Manifest
from dataops.store import Store
from flows.records import RunRecord
from tasks.download.harm.config import KNOWN_HARM
from tasks.register.config import CANDIDATE
from training.evaluation.intervals import flatten_metrics

LANDED = "pairmill.dataset.landed"
TRAINED = "pairmill.candidate.trained"
PROMOTED = "pairmill.champion.promoted"
MATCHED = "pairmill.harm.matched"
"""Images of a download are on lists of known harmful images."""
EVENTS = {"download": MATCHED, "pack": LANDED, "train": TRAINED, "register": PROMOTED}
TAKEDOWN_DUE = "pairmill.takedown.due"
SCORES = 8
"""Maximum number of scores in the event of a new champion."""


def emit_events(record: RunRecord, manifests: Mapping[str, Manifest], store: Store, until: str | None) -> bool:
    """Emit an event for each snapshot that this run made and that has none yet, and return whether there was any.

    Args:
        until: the last stage that the flow run should run; None for all.
    """
    ours = {attempt.flow_run_id for attempt in record.attempts}
    emitted = False
    for stage, event in EVENTS.items():
        manifest = manifests.get(stage)
        if manifest is not None and manifest.facts.get("alias") == CANDIDATE:
            continue  # registered without a gate, and not promoted
        if stage == "download" and manifest is not None and not manifest.facts.get(KNOWN_HARM):
            continue
        if stage == "pack" and record.checks is not None and record.checks.is_blocked:
            continue  # the event would trigger a training
        if manifest is None or manifest.prefect_flow_run_id not in ours or _name(manifest) in record.announced:
            continue
        emit_event(event, resource=_resource(record, manifest, store, until), payload=_payload(manifest, manifests))
        record.announced.append(_name(manifest))
        emitted = True
    return emitted


def emit_takedown_due(request: str, store: str, due: str, days: int) -> None:
    """Emit an event for a takedown request whose deadline is near or past.

    Args:
        request: digest of the request; who asked is in the store's register only.
        days: number of days until the deadline; negative if it is past.
    """
    labels = {"prefect.resource.id": f"pairmill.takedown.{request}", "prefect.resource.name": f"takedown {request}"}
    emit_event(TAKEDOWN_DUE, resource=labels | {"pairmill.store": store}, payload={"due": due, "days": days})


def _name(manifest: Manifest) -> str:
    return f"{manifest.stage}/{manifest.key}"


def _resource(record: RunRecord, manifest: Manifest, store: Store, until: str | None) -> dict[str, str]:
    """Return the labels that triggers match, and pass on as parameters."""
    kind = EVENTS[manifest.stage].rpartition(".")[0]
    return {
        "prefect.resource.id": f"{kind}.{manifest.key}",
        "prefect.resource.name": f"{record.name} {kind.rpartition('.')[2]} {manifest.key}",
        "pairmill.run": record.run_id,
        "pairmill.store": store.uri,
        "pairmill.until": until or "register",
        "pairmill.begun-by": record.first_flow,
    }


def _payload(manifest: Manifest, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return the counts, names and scores of an event; none of them is text from the web."""
    if manifest.stage == "download":
        matches = manifest.facts[KNOWN_HARM]
        return {
            "matches": sum(matches.values()),
            "lists": [{"name": name, "matches": matches[name]} for name in matches],
        }
    payload: dict[str, Any] = {"counts": manifest.counts.model_dump(mode="json"), "digest": manifest.content_digest}
    if manifest.stage == "train":
        payload |= {"model": manifest.facts["model"], "final": manifest.facts["final"]}
    if manifest.stage == "register":
        payload |= {name: manifest.facts[name] for name in ("model_uri", "model_name", "version", "alias", "links")}
        rows = flatten_metrics(manifests["evaluate"].facts["metrics"])
        scores = [{"name": row["key"], "value": row["value"]} for row in rows if row["value"] is not None]
        payload["scores"] = scores[:SCORES]
    return payload
