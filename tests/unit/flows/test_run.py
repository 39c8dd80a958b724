"""What a run does around its stages: the dataset's checks stop it before the training, and listeners cannot fail it."""

from dataclasses import replace
from unittest.mock import MagicMock

import pytest

from dataops import plugins
from dataops.errors import ContractError, DatasetBlocked, ServiceError
from dataops.snapshot import Counts, Input
from dataops.stages import PAIR_STAGES
from flows.dataset_checks import check_kept
from flows.listeners import base
from flows.pipeline import PIPELINE, run_stages
from flows.records import read_record
from flows.run import Run
from tasks.checks.check import ChecksConfig, check_dataset
from tasks.pack.config import PackConfig
from tests.live_runs import build_live_run
from tests.manifests import build_manifest

PACK = build_manifest("pack", key="d" * 16, counts=Counts(input=3, kept=3))
BLOCKING = ChecksConfig(min_rows=4, levels={"min_rows": "block"})


@pytest.fixture
def listeners(monkeypatch):
    """Register only these listeners, by name."""
    registered = {}
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind: registered if kind == "listeners" else load(kind))
    return registered


def build_run(folder, checks=None):
    live = build_live_run(folder, MagicMock(checks=checks or ChecksConfig()))
    live.manifests["pack"] = PACK
    return Run(live)


def test_blocked_dataset_is_recorded_before_the_run_ends(tmp_path, listeners):
    run = build_run(tmp_path, BLOCKING)
    with pytest.raises(DatasetBlocked, match="min_rows: the dataset has 3 pairs; the minimum is 4") as raised:
        run.check_dataset()
    assert raised.value.exit_code == 3
    recorded = read_record(run.context.store, "runs/demo-1.json").checks
    assert recorded.is_blocked


def test_later_flow_uses_the_recorded_report_on_the_same_dataset(tmp_path, listeners):
    run = build_run(tmp_path)
    run.record.checks = check_dataset(BLOCKING, {"pack": PACK})
    with pytest.raises(DatasetBlocked):
        run.check_dataset(recorded=True)
    run.record.checks = run.record.checks.model_copy(update={"dataset": "e" * 16})
    run.check_dataset(recorded=True)
    assert run.record.checks.dataset == PACK.key


def test_failure_of_a_listener_is_logged_once_and_fails_nothing(tmp_path, caplog, listeners):
    seen = []

    class Broken(base.RunListener):
        def progress(self, done, total, line):
            raise ServiceError("http://user:hunter2@host does not answer")

    class Unbuilt(base.RunListener):
        def __init__(self, run):
            raise ImportError("no such library")

    class Working(base.RunListener):
        def progress(self, done, total, line):
            seen.append(line)

    listeners |= {"broken": Broken, "unbuilt": Unbuilt, "working": Working}
    run = build_run(tmp_path)
    for line in ("one", "two"):
        run.context.progress(1, 2, line)
    assert seen == ["one", "two"]
    assert [line.getMessage().partition(":")[0] for line in caplog.records] == [
        "unbuilt does not show the run",
        "Broken does not show the run",
    ]
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("stage", PAIR_STAGES)
def test_stage_over_pairs_that_keeps_no_row_fails_with_its_reasons(stage):
    dropped = {"not_http": 3, "bad_url": 200}
    with pytest.raises(ContractError, match=rf"{stage} keeps no row: 0 of 203 rows \(bad_url 200, not_http 3\)"):
        check_kept(build_manifest(stage, counts=Counts(input=203, kept=0, dropped=dropped)))
    with pytest.raises(ContractError, match=rf"{stage} keeps no row: 0 of 0 rows: its source has no row"):
        check_kept(build_manifest(stage, counts=Counts()))
    check_kept(build_manifest(stage, counts=Counts(input=1, kept=1)))
    check_kept(build_manifest("evaluate", counts=Counts()))


def test_run_that_somebody_stops_is_stopped_and_not_crashed(tmp_path, listeners, monkeypatch):
    run = build_run(tmp_path)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "make", interrupt)
    run.record.begin()
    with pytest.raises(KeyboardInterrupt):
        run_stages(run)
    record = read_record(run.context.store, "runs/demo-1.json")
    assert (record.state, record.actual_state()) == ("stopped", "stopped")


def test_later_flow_reads_the_dataset_of_a_run_that_is_continued_at_this_moment(tmp_path, listeners):
    run = build_run(tmp_path)
    store, record = run.context.store, run.record
    store.put(PACK.path("manifest.json"), PACK.encode())
    with pytest.raises(ContractError, match=r"pack/\(none in the record\)"):
        run.find_recorded("pack")
    record.begin_stage("pack", PACK.key).complete("Completed", 1.0, None, PACK.counts)
    record.begin_stage("pack", PACK.key)
    record.begin_stage("pack", "e" * 16)  # the continued run was killed, and continued again
    record.save(store)
    later = build_run(tmp_path)
    later.record = read_record(store, "runs/demo-1.json")
    assert later.record.key_of("pack") is None
    assert later.find_recorded("pack") == PACK
    assert later.record.key_of("pack") == PACK.key
    store.delete([PACK.path("manifest.json")])
    with pytest.raises(ContractError, match=f"no complete snapshot pack/{PACK.key}"):
        later.find_recorded("pack")


def test_pack_is_made_again_where_a_takedown_was_requested_meanwhile(tmp_path, listeners, monkeypatch):
    requests, made = [], []

    def run_task(stage, label, *_):
        made.append(label)
        requests[:] = [Input(stage="takedown", key="a" * 16, digest="b" * 64)]
        return MagicMock(), PACK

    monkeypatch.setattr("flows.run.run_task", run_task)
    run = build_run(tmp_path)
    run.config.seed, run.config.stage_config = 0, lambda name: PackConfig()
    (pack,) = (step for step in PIPELINE if step.table == "pack")
    run.make(replace(pack, stage=replace(pack.stage, store_inputs=lambda *_: [*requests]), reads=()))
    assert len(made) == len(set(made)) == 2
