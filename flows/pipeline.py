"""The flows: eight stages from a web archive to a registered model. Start reading here.

Each stage is one Prefect task run. Its snapshot in the store decides whether there is work to do: if it is complete, the
task run ends at once in the state `Reused`; if not, it is resumed. Prefect adds order, retries, schedules and a UI.

`pipeline` runs all stages. `curate`, `train` and `evaluate` split the same stages over the machines that fit them. They
work on one run record, one after the other: each is started by an event of the one before (plugins/deployment/events.py).
"""

import logging
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from dataops.errors import ConfigError, NothingLeft, PairmillError, describe_error
from dataops.redaction import scrub, scrub_errors
from dataops.stages import STAGES, StageName
from flows.interruption import IS_OUTCOME
from flows.next_version import adds_nothing, grow
from flows.opening import continue_run, name_flow_run, open_new, open_recorded, prepare_process
from flows.run import Run, Step
from flows.task_run import describe_failure, translate_error
from tasks.curate.stage import CURATE
from tasks.download.stage import DOWNLOAD
from tasks.evaluate.stage import EVALUATE
from tasks.extract.stage import EXTRACT
from tasks.filter.stage import FILTER
from tasks.pack.stage import PACK
from tasks.register.stage import REGISTER
from tasks.train.stage import TRAIN

logger = logging.getLogger(__name__)

BACKFILL = "backfill"
"""Name under which `curate` begins the runs that start no training."""
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


@flow(name="pipeline", flow_run_name=name_flow_run, validate_parameters=False)
@scrub_errors()
def pipeline(
    config: str | None = None,
    run_id: str | None = None,
    until: StageName | None = None,
    from_stage: StageName | None = None,
    retry: tuple[str, ...] = (),
    remake: tuple[StageName, ...] = (),
    verify: bool = False,
    grow: bool = False,
) -> Any:
    """Run all stages, from a web archive to a registered CLIP model: make what is missing, reuse what is there.

    Args:
        config: path of a TOML file, for a new run. A schedule passes it.
        run_id: an existing run to continue instead, with its own config; `config` and `grow` have no effect then.
        until: the last stage to run; by default the last one, or where the existing run was to end.
        from_stage: with run_id: rebuild this stage and all later ones.
        retry: with from_stage download: only fetch the rows again that failed in these ways, such as timeout or http_5xx.
        remake: single stages whose snapshots are rebuilt.
        verify: compare the sha256 of every part before a snapshot is reused.
        grow: add what is new to the dataset of the run before, as the table [grow] does. A schedule passes it.
    """
    if not config and not run_id:
        raise ConfigError("neither config nor run_id is set; set config for a new run, or run_id for an existing one")
    if unknown := {*remake, *filter(None, (from_stage, until))} - {*STAGES}:
        raise ConfigError(f"no such stage: {', '.join(sorted(unknown))}; the stages are {', '.join(STAGES)}")
    if from_stage and not run_id:
        raise ConfigError(
            "from_stage continues an existing run: set run_id, the name of its flow run; or name stages in remake"
        )
    if from_stage and remake:
        raise ConfigError("from_stage rebuilds all later stages, and remake single ones: set one of them")
    prepare_process()
    if not run_id:
        if retry:
            raise ConfigError(
                "retry fetches failed rows of an existing run again: set run_id and from_stage = download"
            )
        return run_stages(open_new(str(config), until, verify=verify, grow=grow), remake=remake)
    run, how = continue_run(run_id, from_stage, until, retry, verify=verify)
    return run_stages(run, remake=remake or how.remake, retry=how.retry)


@flow(name="curate", flow_run_name=name_flow_run)
@scrub_errors()
def curate(config: str, grow: bool = False, each: tuple[str, ...] = ()) -> Any:
    """Make a new version of the dataset, `extract` to `pack`, and emit an event that starts its training.

    Args:
        config: path of the TOML file.
        grow: add what is new to the dataset of the run before, as the table [grow] does. A schedule passes it.
        each: settings such as source.crawl="CC-MAIN-2026-43": make a run with each, in this order, which adds what it
            brings to the dataset. Only the last one starts a training.
    """
    prepare_process()
    for setting in each[:-1]:
        result = run_stages(open_new(config, "pack", grow=True, setting=setting, flow=BACKFILL))
        if not isinstance(result, dict):  # it failed
            return result
    return run_stages(open_new(config, "pack", grow=grow or bool(each), setting=each[-1] if each else None))


@flow(name="train", flow_run_name=name_flow_run)
@scrub_errors()
def train(run_id: str, store: str | None = None) -> Any:
    """Train on the dataset of an existing run; the stages before are read from the store.

    Args:
        run_id: the run.
        store: URI of the store with the run's record and snapshots; by default the known stores of this machine.
    """
    prepare_process()
    return run_stages(open_recorded(run_id, store, "train", sources=False), first="train")


@flow(name="evaluate", flow_run_name=name_flow_run)
@scrub_errors()
def evaluate(run_id: str, store: str | None = None) -> Any:
    """Evaluate the trained model of an existing run and register it; if it passes the gate, it becomes the champion.

    Args:
        run_id: the run.
        store: URI of the store with the run's record and snapshots; by default the known stores of this machine.
    """
    prepare_process()
    return run_stages(open_recorded(run_id, store, "register", sources=False), first="evaluate")


FLOWS = (pipeline, curate, train, evaluate)


def run_stages(
    run: Run,
    *,
    first: str = STAGES[0],
    remake: Sequence[str] = (),
    retry: Sequence[str] = (),
) -> dict[str, Any] | State:
    """Run the stages from `first` to the run's last in order, and return what `pairmill run --json` prints."""
    try:
        try:
            _make_stages(run, first, remake, retry)
        except NothingLeft as nothing:
            if not adds_nothing(run, nothing):
                raise
            grow(run)
    except Exception as raised:
        error = scrub(translate_error(raised))
        run.end("failed", describe_error(error))
        message = describe_failure(error, run.stage, run.record.run_id)
        trace = None if isinstance(error, PairmillError) else error
        logger.error("%s", message, exc_info=trace, extra={IS_OUTCOME: True})
        return Failed(message=message, data=error)  # Prefect raises `error` where the flow was called
    except BaseException as error:  # SIGTERM (a cancelled flow run, an evicted machine) or Ctrl-C
        run.end("stopped", run.describe_stop(error))
        raise
    run.end("completed")
    return run.record.summary()


def _make_stages(run: Run, first: str, remake: Sequence[str], retry: Sequence[str]) -> None:
    for number, step in enumerate(PIPELINE):
        if number < STAGES.index(first):
            run.reuse_recorded(step)
        else:
            classes = retry if step.stage is DOWNLOAD else ()
            run.make(step, force=step.stage.name in remake, retry=classes)
        if step.stage is PACK:
            run.check_dataset(recorded=number < STAGES.index(first))
            grow(run)
        if step.stage.name == run.until:
            break
