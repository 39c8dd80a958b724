"""Send OpenLineage events about a run and its stages while it goes, if OPENLINEAGE_URL names a server.

The run and each attempt of a stage begin with START and end with COMPLETE, FAIL or ABORT (stopped by a signal). A stage
whose snapshot is reused has no events: the run that made it has sent them.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dataops.errors import describe_error
from dataops.redaction import remove_credentials
from dataops.snapshot import Manifest
from flows.records import RunRecord, RunState
from tasks.engine.context import Context
from tasks.engine.stage import Plan, code_version
from tasks.openlineage.events import (
    NAMESPACE,
    EventType,
    build_event,
    build_facet,
    build_inputs,
    build_job,
    build_output,
)
from tasks.openlineage.sender import END_SECONDS, EventSender, open_sender

SHOWN_INPUTS = 1000
"""Maximum number of inputs in an event; a crawl has up to 100,000 source files."""
STOPPED_SECONDS = 0.5
"""Maximum time for which a run that a signal ends waits for its events (flows/interruption.py)."""
ENDS: Mapping[str, EventType] = {"completed": "COMPLETE", "failed": "FAIL"}


class RunLineage:
    """Sends the events of one flow run.

    Args:
        record: the run.
        context: where it runs.
    """

    def __init__(self, record: RunRecord, context: Context):
        self._sender: EventSender | None = open_sender()
        if self._sender is None:
            return
        self._name, self._store = record.name, remove_credentials(context.store.uri)
        self._run_id, self._commit = str(uuid.uuid4()), code_version()["commit"]
        self._job = build_job(self._name, "PIPELINE", self._commit)
        engine = {"name": "pairmill", "version": self._commit or "unknown"}
        self._facets = {"processing_engine": build_facet("1-1-1/ProcessingEngineRunFacet", **engine)}
        tags = {"pairmill_run": record.run_id, "prefect_flow_run": context.flow_run_url or context.flow_run_id or ""}
        shown = [{"key": key, "value": value, "source": "PAIRMILL"} for key, value in tags.items()]
        self._facets["tags"] = build_facet("1-0-0/TagsRunFacet", tags=shown)
        self._send("START", self._run_id, self._job)

    def follow(self, planned: Plan[Any], make: Callable[[], Manifest]) -> Manifest:
        """Return the snapshot that `make` makes; send START before it, and how it ended after it."""
        if self._sender is None:
            return make()
        run_id, stage = str(uuid.uuid4()), planned.stage.name
        job = build_job(f"{self._name}.{stage}", "STAGE", self._commit)
        parent = {"run": {"runId": self._run_id}, "job": {"namespace": NAMESPACE, "name": self._name}}
        facets = {"parent": build_facet("1-2-0/ParentRunFacet", **parent)}
        inputs = build_inputs(planned.inputs[:SHOWN_INPUTS], self._store)
        self._send("START", run_id, job, inputs, facets=facets)
        try:
            manifest = make()
        except Exception as error:
            facets["errorMessage"] = _describe(describe_error(error))
            self._send("FAIL", run_id, job, inputs, facets=facets)
            raise
        except BaseException:
            self._send("ABORT", run_id, job, inputs, facets=facets)
            raise
        self._send("COMPLETE", run_id, job, inputs, [build_output(manifest, self._store)], facets)
        return manifest

    def end(self, state: RunState, error: str | None, manifests: Mapping[str, Manifest]) -> None:
        """Send how the run ended, with its last snapshot as output, and wait a bounded time for all events."""
        if self._sender is None:
            return
        facets = {"errorMessage": _describe(error)} if error else {}
        outputs = [build_output(manifest, self._store) for manifest in [*manifests.values()][-1:]]
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
