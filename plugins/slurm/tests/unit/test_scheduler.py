"""Arguments and errors of SLURM's commands, with fakes on PATH; plugins/slurm/tests/cluster has the real ones."""

import json
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from dataops.errors import ConfigError, ContractError, PairmillError, ServiceError
from dataops.home import CHECKOUT, code_digest
from dataops.snapshot import Counts, Record
from dataops.store import FolderStore
from flows.config import check_config
from plugins.slurm.config import SlurmConfig
from plugins.slurm.engine import SLURM, SlurmExecutor
from plugins.slurm.pool import SlurmPool
from plugins.slurm.scheduler import encode_call, list_cores, name_job, run_command, submit, watch_states
from plugins.slurm.task import decode_outcome, encode_outcome
from tasks.engine.context import MachineLost
from tests.concurrency import wait_for


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that puts a command on PATH: it writes its arguments and input into files, prints and exits."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    (tmp_path / "bin").mkdir()

    def put(name, *, says="", complains="", code=0):
        path = tmp_path / "bin" / name
        log = tmp_path / name
        path.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {log}.arguments\n"
            f"/usr/bin/env > {log}.environment\n/bin/cat > {log}.input\n"
            f"printf '%s' '{says}'\nprintf '%s' '{complains}' >&2\nexit {code}\n"
        )
        path.chmod(0o755)

    return put


def test_options_of_the_config_are_arguments_of_sbatch_and_the_script_carries_the_calls(fake, tmp_path, monkeypatch):
    fake("sbatch", says="17")
    store = FolderStore(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv("SLURM_CONF", "/etc/mine.conf")
    table = {"account": "vision", "partition": "cpu", "time": "04:00:00", "extra": ["--exclude=n7", "--exclusive"]}
    config = SlurmConfig.model_validate(table | {"train": {"partition": "gpu", "gres": "gpu:8"}})
    assert [*config.for_training().arguments()] == [
        *("--account=vision", "--partition=gpu", "--time=04:00:00", "--gres=gpu:8", "--exclude=n7", "--exclusive")
    ]
    name = name_job(store, "filter", "00ff")
    assert submit(name, [*config.arguments(), "--array=0-1"], store, ["a.json AAAA", "b.json BBBB"], 2) == "17"
    arguments = (tmp_path / "sbatch.arguments").read_text().split("\n")
    assert {"--parsable", f"--job-name={name}", "--partition=cpu", "--array=0-1", "--requeue"} <= {*arguments}
    assert f"--output={tmp_path}/home/slurm/{name}-%A_%a.log" in arguments
    script = (tmp_path / "sbatch.input").read_text()
    assert f"-m plugins.slurm.task {tmp_path} {code_digest()} 2 <<'CALLS'\na.json AAAA\nb.json BBBB\nCALLS\n" in script
    environment = (tmp_path / "sbatch.environment").read_text().splitlines()
    assert "SLURM_CONF=/etc/mine.conf" in environment
    assert not any(line.startswith("SLURM_JOB_ID=") for line in environment), "a run may itself be a job"


@pytest.mark.parametrize(
    "option", ["--output=/home/me/.bashrc", "--wrap=rm", "-p gpu", "--exclude=a\n#SBATCH", "--uid=0"]
)
def test_options_that_name_files_commands_or_the_environment_are_rejected(option):
    with pytest.raises(ValidationError, match="is not allowed here"):
        SlurmConfig.model_validate({"extra": [option]})


def test_missing_commands_are_named_when_the_config_is_read(fake):
    config = {"name": "x", "source": {"kind": "pairs", "paths": ["x.parquet"]}, "execution": {"engine": "slurm"}}
    with pytest.raises(ConfigError, match="sbatch is not on PATH: run pairmill on a login node") as caught:
        check_config(config, "mine.toml", sources=False)
    assert caught.value.exit_code == 2
    assert not SLURM.diagnose({}).ok


@pytest.mark.parametrize(
    ("complains", "code", "says"),
    [
        (
            "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job",
            2,
            "`sinfo` lists the partitions",
        ),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition", 2, "Invalid account"),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", 75, "`pairmill rerun`"),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv", 75, "see `scontrol ping`"),
        ("", 2, "SLURM rejects sbatch (exit code 1)"),
    ],
)
def test_errors_of_sbatch_have_a_remedy_and_the_right_exit_code(fake, complains, code, says):
    fake("sbatch", complains=complains, code=1)
    with pytest.raises(PairmillError) as caught:
        run_command("sbatch")
    assert caught.value.exit_code == code
    assert says in str(caught.value)


def test_workers_are_the_cores_of_the_partition_and_a_partition_without_nodes_is_an_error(fake, tmp_path):
    fake("sinfo", says="a 8\nb 3\na 8\n")
    store = FolderStore(tmp_path)
    with SlurmExecutor(SlurmConfig(cpus=2)).open(1, store) as opened:
        assert (opened.number, opened.per_machine) == (5, 4)
    with SlurmExecutor(SlurmConfig(cpus=2), workers=3).open(1, store) as opened:
        assert opened.number == 3
    fake("sinfo")
    with pytest.raises(ConfigError, match="no partition nope with nodes"):
        list_cores(SlurmConfig(partition="nope"))


@pytest.mark.parametrize("says", ["", "hello", "17_0", "17 RUNNING", "17_0|LÄUFT|name|Keiner"])
def test_answers_of_another_form_are_retryable_errors(fake, tmp_path, says):
    for name in ("sbatch", "squeue", "sinfo"):
        fake(name, says=says)
    calls = [lambda: submit("n", [], FolderStore(tmp_path), ["a b"], 1)]
    calls += [lambda: next(watch_states()), lambda: list_cores(SlurmConfig())] if says else []
    for call in calls:
        with pytest.raises(ServiceError, match=r"printed .*, which is no answer of SLURM"):
            call()


def test_a_command_that_a_signal_ends_is_retryable_and_the_line_of_another_form_is_named(fake):
    fake("squeue", code="$(kill -9 $$)")
    with pytest.raises(ServiceError, match="exit code -9"):
        next(watch_states())
    fake("squeue", says="17|RUNNING|name|None\nhello")
    with pytest.raises(ServiceError, match="squeue printed 'hello'"):
        next(watch_states())


@dataclass(frozen=True)
class Task:
    id: str


def test_a_call_whose_worker_died_gets_all_the_memory_of_its_node(fake, tmp_path):
    fake("sbatch", says="17")
    fake("squeue", says=f"17_0|RUNNING|{name_job(FolderStore(tmp_path), 'filter', 'k')}|None")
    fake("scancel")
    arguments, store = tmp_path / "sbatch.arguments", FolderStore(tmp_path)
    with SlurmPool(SlurmConfig(mem="8G", poll_seconds=0.1), store, None) as pool:
        for submit_call, more in ((pool.submit, []), (pool.submit_again, ["--mem=0"])):
            arguments.unlink(missing_ok=True)
            submit_call(str.upper, str.upper, store.uri, "filter", "k", Task("a"))
            given = wait_for(lambda: arguments.exists() and arguments.read_text().split())
            assert [one for one in given if one.startswith("--mem")] == ["--mem=8G", *more], "the last one counts"


@pytest.mark.parametrize(
    ("listed", "kind", "says"),
    [
        (
            "",
            BrokenProcessPool,
            "is not listed by squeue any more, and left no result: see `scontrol show job 17_0` and its log",
        ),
        ("17_0|RUNNING|of another cluster|None", BrokenProcessPool, "is not listed by squeue any more"),
        (
            "17_0|OUT_OF_MEMORY|NAME|None",
            BrokenProcessPool,
            "ended as OUT_OF_MEMORY with no result: raise execution.slurm.mem",
        ),
        ("17_0|PREEMPTED|NAME|None", MachineLost, "ended as PREEMPTED with no result"),
        ("17_0|NODE_FAIL|NAME|None", MachineLost, "ended as NODE_FAIL with no result"),
    ],
)
def test_a_job_without_a_result_is_named_with_the_remedy(fake, tmp_path, listed, kind, says):
    store = FolderStore(tmp_path)
    name = name_job(store, "filter", "k")
    fake("sbatch", says="17")
    fake("squeue", says=listed.replace("NAME", name))
    fake("scancel")
    with SlurmPool(SlurmConfig(poll_seconds=0.1), store, None, visible_seconds=0.3) as pool:
        error = pool.submit(str.upper, str.upper, store.uri, "filter", "k", Task("a")).exception(60)
    assert isinstance(error, kind)
    assert f"SLURM job 17_0 {says}" in str(error)
    assert f"{name}-17_0.log" in str(error)
    assert (tmp_path / "scancel.arguments").read_text().split() == [f"--name={name}", "17"], "no job that has its id"


def test_a_node_with_other_code_is_a_clear_error(tmp_path):
    command = [sys.executable, "-m", "plugins.slurm.task", str(tmp_path), "0", "1"]
    call = f"out.json {encode_call(str.upper, ('x',), {})}\n"
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "0", "PYTHONPATH": str(CHECKOUT)}
    subprocess.run(command, input=call, text=True, capture_output=True, check=True, env=environment)
    error = decode_outcome(FolderStore(tmp_path).read("out.json"))
    assert isinstance(error, ConfigError)
    assert f"has other code of pairmill, in {CHECKOUT}, than the machine of the run" in str(error)


def wrong():
    raise ContractError("of hush-hush-hush")


def test_outcomes_are_json_without_secrets(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "hush-hush-hush")
    record = Record(task="a", counts=Counts(input=3, kept=3))
    assert decode_outcome(encode_outcome(lambda: record)) == record
    data = encode_outcome(wrong)
    assert json.loads(data) == {"error": "ContractError", "text": "of ***", "exit_code": 3, "retryable": False}
    error = decode_outcome(data)
    assert (type(error), str(error), error.exit_code) == (ContractError, "of ***", 3)
    data = encode_outcome(lambda: int("hush-hush-hush"))
    bug = decode_outcome(data)
    assert isinstance(bug, RuntimeError)
    assert "ValueError: invalid literal" in str(bug)
    assert "in encode_outcome" in str(bug), "where it was"
    assert b"hush" not in data
