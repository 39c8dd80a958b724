"""Emits events to the Prefect server when a dataset landed, a candidate was trained or a champion was promoted.

A download with images on lists of known harmful images emits one too, and a takedown request that is due.

Triggers and notifications react to them. Each snapshot that a run made gets one event, after the record is closed, or for
a download as soon as it ends; if the run is killed before that, its rerun emits the event. An event that cannot be
delivered never fails a run.
"""

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

from dataops.facts import DownloadFacts, EvaluateFacts, RegisterFacts, TrainFacts
from dataops.snapshot import Manifest
from dataops.stages import RunState
from dataops.store import Store
from flows.listeners.base import RunListener, StageEnd
from flows.records import RunRecord
from tasks.download.hooks import erased_reasons
from tasks.register.config import CANDIDATE
from training.evaluation.intervals import flatten_metrics

LANDED = "pairmill.dataset.landed"
TRAINED = "pairmill.candidate.trained"
PROMOTED = "pairmill.champion.promoted"
MATCHED = "pairmill.harm.matched"
"""Images of a download are on lists of known harmful images."""
EVENTS = {"download": MATCHED, "pack": LANDED, "train": TRAINED, "register": PROMOTED}
SCORES = 8
"""Maximum number of scores in the event of a new champion."""


class Events(RunListener):
    """Emits the events of one run; last, since whoever reacts to one must find the record closed."""

    order = 200

    def stage_ended(self, end: StageEnd) -> None:
        if end.stage == "download" and end.manifest is not None:  # an alert must not wait for the training
            self._emit()

    def ended(self, state: RunState, error: str | None) -> None:
        self._emit()

    def _emit(self) -> None:
        if emit_events(self.run.record, self.run.manifests, self.run.context.store, self.run.until):
            self.run.save()


def emit_events(record: RunRecord, manifests: Mapping[str, Manifest], store: Store, until: str | None) -> bool:
    """Emit an event for each snapshot that this run made and that has none yet, and return whether there was any.

    Args:
        until: the last stage that the flow run should run; None for all.
    """
    ours = {attempt.flow_run_id for attempt in record.attempts}
    emitted = False
    for stage, event in EVENTS.items():
        manifest = manifests.get(stage)
        if manifest is not None and stage == "register" and RegisterFacts.of(manifest).alias == CANDIDATE:
            continue  # registered without a gate, and not promoted
        if stage == "download" and manifest is not None and not _find_matches(manifest):
            continue
        if stage == "pack" and record.checks is not None and record.checks.is_blocked:
            continue  # the event would trigger a training
        if manifest is None or manifest.prefect_flow_run_id not in ours or _name(manifest) in record.announced:
            continue
        emit_event(event, resource=_resource(record, manifest, store, until), payload=_payload(manifest, manifests))
        record.announced.append(_name(manifest))
        emitted = True
    return emitted


def _find_matches(manifest: Manifest) -> dict[str, int]:
    """Return the number of images of a download that a list of known harmful ones names, by the name of the list."""
    further = DownloadFacts.of(manifest).further
    return {name: number for reason in erased_reasons() for name, number in further.get(reason, {}).items()}


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
        matches = _find_matches(manifest)
        return {
            "matches": sum(matches.values()),
            "lists": [{"name": name, "matches": matches[name]} for name in matches],
        }
    payload: dict[str, Any] = {"counts": manifest.counts.model_dump(mode="json"), "digest": manifest.content_digest}
    if manifest.stage == "train":
        payload |= TrainFacts.of(manifest).model_dump(include={"model", "final"})
    if manifest.stage == "register":
        shown = {"model_uri", "model_name", "version", "alias", "links"}
        payload |= RegisterFacts.of(manifest).model_dump(include=shown)
        rows = flatten_metrics(EvaluateFacts.of(manifests["evaluate"]).metrics)
        scores = [{"name": row["key"], "value": row["value"]} for row in rows if row["value"] is not None]
        payload["scores"] = scores[:SCORES]
    return payload
