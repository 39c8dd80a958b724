"""Show an experiment in MLflow and in Prefect: a parent run with the runs of its trainings, and one flow run."""

import logging
from collections.abc import Callable
from pathlib import Path

from dataops.redaction import redact
from dataops.store import Store
from flows.config import config_name
from plugins.experiments.decide import Result
from plugins.experiments.page import render_page
from plugins.experiments.record import Record
from tasks.tracking import client as tracking
from tasks.tracking.child_runs import PARENT_TAG

logger = logging.getLogger(__name__)

PAGE = "experiment.html"
EXPERIMENT_TAG = "pairmill.experiment"


def show_in_mlflow(result: Result, record: Record, store: Store) -> None:
    """Write the parent run of an experiment: values, decision and page. A failure is only logged."""
    try:
        with tracking.mlflow_errors():
            _write_run(result, record, store)
    except Exception as error:
        logger.warning("MLflow does not show %s: %s: %s", record.name, type(error).__name__, redact(str(error)))


def _write_run(result: Result, record: Record, store: Store) -> None:
    from mlflow.entities import Metric

    client, name = tracking.connect(), f"experiment {record.name}"
    tags = {EXPERIMENT_TAG: record.name, "mlflow.note.content": result.decision, "mlflow.source.name": "pairmill"}
    run = tracking.open_run(client, config_name(Path(record.base)), f"experiment-{record.name}", name, tags)
    for run_id in {one for cell in record.cells for one in cell.run_ids}:
        query = f"tags.`{tracking.PIPELINE_TAG}` = '{run_id}'"
        for child in client.search_runs([run.info.experiment_id], query):
            client.set_tag(child.info.run_id, PARENT_TAG, run.info.run_id)
    points = [
        Metric(f"{result.metric}/{one.name}", value, run.info.start_time, seed)
        for one in result.variants
        for seed, value in enumerate(one.values)
    ]
    tracking.log_metrics(client, run, points)
    client.log_text(run.info.run_id, render_page(result, store), PAGE)
    tracking.finish(client, run, "FINISHED" if result.comparisons else "FAILED")


def run_in_flow(record: Record, store: Store, make: Callable[[], int]) -> int:
    """Make an experiment in a flow run, of which the runs of its trainings are subflows; return the exit code."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run
    from prefect.states import Failed

    from flows.abandoned_runs import close_flow_run

    codes: list[int] = []
    if record.flow_run_id is not None:  # a killed process could not close it
        with get_client(sync_client=True) as client:
            close_flow_run(client, record.flow_run_id, only_running=True)

    @flow(name="experiment", flow_run_name=f"experiment-{record.name}", persist_result=False)
    def experiment() -> object:
        record.flow_run_id = str(flow_run.id)
        codes.append(make())
        return Failed(message=f"exit code {codes[0]}") if codes[0] else None

    experiment(return_state=True)
    return codes[0] if codes else 1
