"""The flows: eight stages from a web archive to a registered model. Start reading here.

Each stage is one Prefect task run. Its snapshot in the store decides whether there is work to do: a complete one ends the
task at once in the state `Reused`, an unfinished one is resumed. Prefect gives order, retries, schedule and sight.

`pipeline` runs all stages. `curate`, `train` and `evaluate` are the same path in three pieces, each for the machine that
fits it: they work on one run record, one after the other, started by the events of the piece before.
"""

import logging
import os
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from dataops.errors import ConfigError, PairmillError
from dataops.redaction import guard_process, scrub, scrubbed_errors
from dataops.stages import STAGES
from flows.config import config_name
from flows.prefect_errors import named
from flows.records import RUN_ID, new_run_id
from flows.run import Run, Step
from infra.local.services import environment, make_home
from tasks.curate.stage import CURATE
from tasks.download.stage import DOWNLOAD
from tasks.evaluate.stage import EVALUATE
from tasks.extract.stage import EXTRACT
from tasks.filter.stage import FILTER
from tasks.pack.stage import PACK
from tasks.register.stage import REGISTER
from tasks.train.stage import TRAIN

logger = logging.getLogger(__name__)


PIPELINE = (
    Step(EXTRACT, "source", reads=()),
    Step(FILTER, "filter", reads=("extract",)),
    Step(DOWNLOAD, "download", reads=("filter",)),
    Step(CURATE, "curate", reads=("download",)),
    Step(PACK, "pack", reads=("curate", "download")),
    Step(TRAIN, "train", reads=("pack",)),
    Step(EVALUATE, "evaluate", reads=("train", "pack")),
    Step(REGISTER, "register_", reads=("evaluate", "train", "pack", "curate", "download", "filter", "extract")),
)


def run_id_of_flow_run() -> str:
    """Names a flow run after the run that it works on: `pairmill show NAME` and `pairmill rerun NAME` are at hand.

    A scheduled flow run gives its run the id: its config's name and the time for which it was planned. The name stays
    when the flow run is retried, and so does the run.
    """
    given = flow_run.parameters
    if given.get("run_id"):
        return str(given["run_id"])
    if RUN_ID.fullmatch(str(flow_run.name)):
        return str(flow_run.name)
    path = Path(str(given.get("config")))
    try:
        name = config_name(path)
    except ConfigError:
        name = path.stem  # the flow itself says what is wrong with the file
    return new_run_id(name, flow_run.scheduled_start_time)


@flow(name="pipeline", flow_run_name=run_id_of_flow_run, validate_parameters=False)
@scrubbed_errors()
def pipeline(
    config: str | None = None,
    run_id: str | None = None,
    until: str | None = None,
    force: tuple[str, ...] = (),
    retry: tuple[str, ...] = (),
    verify: bool = False,
) -> Any:
    """From a web archive to a registered CLIP model: makes what is missing, reuses what is there.

    Args:
        config: path of the TOML file of a new run (what a schedule gives).
        run_id: an existing run to work on instead (what the command gives).
        until: the last stage to run.
        force: stages whose snapshots are made again.
        retry: classes of failure; the rows of download that failed so are fetched again.
        verify: compare the sha256 of every part before a snapshot is reused.
    """
    if not config and not run_id:
        raise ConfigError("give config (a new run) or run_id (an existing one)")
    if unknown := {*force, until or STAGES[-1]} - {*STAGES}:
        raise ConfigError(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    _prepare()
    run = Run.of_record(run_id, None, until) if run_id else Run.of_config(str(config), until)
    return run_stages(run, force=force, retry=retry, verify=verify)


@flow(name="curate", flow_run_name=run_id_of_flow_run)
@scrubbed_errors()
def curate(config: str) -> Any:
    """From a web archive to a new version of the dataset, `extract` to `pack`. Its landing is an event.

    Args:
        config: path of the TOML file.
    """
    _prepare()
    return run_stages(Run.of_config(config, "pack"))


@flow(name="train", flow_run_name=run_id_of_flow_run)
@scrubbed_errors()
def train(run_id: str, store: str | None = None) -> Any:
    """Takes a run whose dataset has landed and trains on it; the stages before are taken from the store.

    Args:
        run_id: the run.
        store: where its record and its snapshots lie, as the run's config names it; the known stores by default.
    """
    _prepare()
    return run_stages(Run.of_record(run_id, store, "train", sources=False), first="train")


@flow(name="evaluate", flow_run_name=run_id_of_flow_run)
@scrubbed_errors()
def evaluate(run_id: str, store: str | None = None) -> Any:
    """Takes a run whose candidate is trained, measures it and registers it: behind the gate it becomes the champion.

    Args:
        run_id: the run.
        store: where its record and its snapshots lie, as the run's config names it; the known stores by default.
    """
    _prepare()
    return run_stages(Run.of_record(run_id, store, "register", sources=False), first="evaluate")


FLOWS = (pipeline, curate, train, evaluate)


def run_stages(
    run: Run,
    *,
    first: str = STAGES[0],
    force: tuple[str, ...] = (),
    retry: tuple[str, ...] = (),
    verify: bool = False,
) -> dict[str, Any] | State:
    """Run the stages from `first` to the run's last in order; what `pairmill run --json` prints."""
    try:
        for place, step in enumerate(PIPELINE):
            if place < STAGES.index(first):
                run.take(step)
            else:
                classes = retry if step.stage is DOWNLOAD else ()
                run.make(step, force=step.stage.name in force, retry=classes, verify=verify)
            if step.stage.name == run.until:
                break
    except Exception as raised:
        error = scrub(named(raised))
        run.end("failed", f"{type(error).__name__}: {error}")
        logger.error("%s", run.failure(error), exc_info=None if isinstance(error, PairmillError) else error)
        return Failed(message=run.failure(error), data=error)  # Prefect raises `error` where the flow was called
    except BaseException as error:  # SIGTERM by a cancel or an evicting machine, Ctrl-C
        run.end("crashed", f"stopped in {run.at} ({type(error).__name__})")
        raise
    run.end("completed")
    return run.summary()


def _prepare() -> None:
    """Make this process fit to run a flow: a worker's own environment may lack the address of the local MLflow server."""
    for name, value in environment().items():
        os.environ.setdefault(name, value)
    guard_process()
    make_home()
