"""Send OpenLineage events about a run and its stages while it goes, if OPENLINEAGE_URL names a server.

The run and each attempt of a stage begin with START and end with COMPLETE, FAIL or ABORT (stopped by a signal). A stage
whose snapshot is reused has no events: the run that made it has sent them.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dataops.errors import describe_error
from dataops.redaction import remove_credentials
from dataops.stages import RunState
from flows.listeners.base import LiveRun, RunListener, StageEnd
from plugins.openlineage.events import (
    NAMESPACE,
    EventType,
    build_event,
    build_facet,
    build_inputs,
    build_job,
    build_output,
)
from plugins.openlineage.sender import END_SECONDS, EventSender, open_sender
from tasks.engine.stage import Plan, code_version

SHOWN_INPUTS = 1000
"""Maximum number of inputs in an event; a crawl has up to 100,000 source files."""
STOPPED_SECONDS = 0.5
"""Maximum time for which a run that a signal ends waits for its events (flows/interruption.py)."""
ENDS: Mapping[str, EventType] = {"completed": "COMPLETE", "failed": "FAIL"}


@dataclass(frozen=True)
class _Attempt:
    """An attempt of a stage that has not ended."""

    run_id: str
    job: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    facets: Mapping[str, Any]


class OpenLineage(RunListener):
    """Sends the events of one flow run."""

    order = 40

    def __init__(self, run: LiveRun):
        super().__init__(run)
        self._sender: EventSender | None = open_sender()
        self._attempt: _Attempt | None = None

    def begin(self) -> None:
        if self._sender is None:
            return
        record, context = self.run.record, self.run.context
        self._name, self._store = record.name, remove_credentials(context.store.uri)
        self._run_id, self._commit = str(uuid.uuid4()), code_version()["commit"]
        self._job = build_job(self._name, "PIPELINE", self._commit)
        engine = {"name": "pairmill", "version": self._commit or "unknown"}
        self._facets = {"processing_engine": build_facet("1-1-1/ProcessingEngineRunFacet", **engine)}
        tags = {"pairmill_run": record.run_id, "prefect_flow_run": context.flow_run_url or context.flow_run_id or ""}
        shown = [{"key": key, "value": value, "source": "PAIRMILL"} for key, value in tags.items()]
        self._facets["tags"] = build_facet("1-0-0/TagsRunFacet", tags=shown)
        self._send("START", self._run_id, self._job)

    def making(self, planned: Plan[Any], *, elsewhere: bool) -> None:
        if self._sender is None or elsewhere:
            return
        job = build_job(f"{self._name}.{planned.stage.name}", "STAGE", self._commit)
        parent = {"run": {"runId": self._run_id}, "job": {"namespace": NAMESPACE, "name": self._name}}
        facets = {"parent": build_facet("1-2-0/ParentRunFacet", **parent)}
        inputs = build_inputs(planned.inputs[:SHOWN_INPUTS], self._store)
        self._attempt = _Attempt(str(uuid.uuid4()), job, inputs, facets)
        self._send("START", self._attempt.run_id, job, inputs, facets=facets)

    def attempt_failed(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._end_attempt("FAIL", facets={"errorMessage": _describe(describe_error(error))})
        else:
            self._end_attempt("ABORT")

    def stage_ended(self, end: StageEnd) -> None:
        if end.manifest is not None and self._attempt is not None:
            self._end_attempt("COMPLETE", [build_output(end.manifest, self._store)])

    def _end_attempt(
        self, kind: EventType, outputs: Sequence[Mapping[str, Any]] = (), facets: Mapping[str, Any] | None = None
    ) -> None:
        if (attempt := self._attempt) is not None:
            self._attempt = None
            self._send(kind, attempt.run_id, attempt.job, attempt.inputs, outputs, {**attempt.facets, **(facets or {})})

    def ended(self, state: RunState, error: str | None) -> None:
        """Send how the run ended, with its last snapshot as output, and wait a bounded time for all events."""
        if self._sender is None:
            return
        facets = {"errorMessage": _describe(error)} if error else {}
        outputs = [build_output(manifest, self._store) for manifest in [*self.run.manifests.values()][-1:]]
        self._send(ENDS.get(state, "ABORT"), self._run_id, self._job, (), outputs, facets)
        self._sender.close(END_SECONDS if state in ENDS else STOPPED_SECONDS)
        self._sender = None

    def _send(
        self,
        kind: EventType,
        run_id: str,
        job: Mapping[str, Any],
        inputs: Sequence[Mapping[str, Any]] = (),
        outputs: Sequence[Mapping[str, Any]] = (),
        facets: Mapping[str, Any] | None = None,
    ) -> None:
        if self._sender is not None:
            run = {"runId": run_id, "facets": {**self._facets, **(facets or {})}}
            self._sender.send(build_event(kind, datetime.now(UTC), run, job, inputs, outputs))


def _describe(error: str) -> dict[str, Any]:
    return build_facet("1-0-1/ErrorMessageRunFacet", message=error, programmingLanguage="PYTHON")
