"""Versions are made in their order, each with those before it as seen; what is complete is reused."""

import json
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dataops.snapshot import Counts, Draft
from dataops.store import open_store
from flows.app import run_command
from flows.config import load_config
from flows.pipeline import PIPELINE
from plugins.backfill import command
from plugins.backfill.child_runs import RunResult
from tasks.engine.stage import plan
from tests.manifests import build_manifest


@dataclass
class MadeRuns:
    """Stands for the runs in processes: it commits a manifest without parts for each stage, and keeps its calls."""

    before: Callable[[str, str], int] = lambda value, until: 0
    """Called with the value and the last stage of a run; returns its exit code."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    seen: dict[str, list[str]] = field(default_factory=dict)
    ended_by: int = 0

    def run(self, config: Path, settings: Sequence[str], until: str, prefix: str) -> RunResult:
        value = next(one.partition("=")[2] for one in settings if one.startswith("seed="))
        self.calls.append((value, until))
        if code := self.before(value, until):
            return RunResult(code, {"run_id": f"run-{value}", "error": {"message": f"no {value}", "exit_code": code}})
        loaded = load_config(config, settings, until)
        store, made, stages = open_store(loaded.store.uri), {}, []
        for step in PIPELINE:
            name = step.stage.name
            planned = plan(
                step.stage, loaded.stage_config(step.table), loaded.seed, [made[n] for n in step.reads], store
            )
            manifest = build_manifest(
                name,
                key=planned.key,
                inputs=list(planned.inputs),
                counts=Counts(input=3, kept=3),
                content_digest=planned.key,
            )
            made[name] = Draft(store, name, planned.key).commit(manifest)
            stages.append({"stage": name, "key": planned.key})
            if name == until:
                break
        if until == "pack":
            self.seen[value] = loaded.filter.seen
        return RunResult(0, {"run_id": f"run-{value}", "stages": stages})

    def end(self, number: int) -> None:
        self.ended_by = number


@pytest.fixture
def backfill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command on a list of pairs, once for each seed, and returns code and JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(command, "start_servers", lambda: None)
    (tmp_path / "a.csv").write_text("url,caption\n")
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\n[store]\nuri = "{tmp_path / "store"}"\n[source]\nkind = "pairs"\npaths = ["a.csv"]\n'
        '[filter]\nseen = ["0000000000000000"]\n[download]\ncontact = "mailto:a@b.test"\n'
    )

    def call(runs: MadeRuns, *options: str, seeds: int = 3) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setattr(command.ChildRuns, "run", lambda self, *arguments: runs.run(*arguments))
        monkeypatch.setattr(command.ChildRuns, "end", lambda self, number: runs.end(number))
        each = [option for seed in range(1, seeds + 1) for option in ("--each", f"seed={seed}")]
        code = run_command(["backfill", "mine.toml", *each, *options, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out), printed.err

    return call


def states(result: dict[str, Any]) -> list[str]:
    return [version["state"] for version in result["versions"]]


@pytest.mark.parametrize("code", [2, 3, 75])
def test_a_failed_version_stops_those_after_it_and_the_same_command_continues(backfill: Any, code: int) -> None:
    broken = MadeRuns(lambda value, until: code if value == "2" else 0)
    exit_code, result, printed = backfill(broken)
    assert (exit_code, result["exit_code"], states(result)) == (code, code, ["made", "failed", "waiting"])
    assert [(one["exit_code"], one["error"]) for one in result["versions"]] == [(0, None), (code, "no 2"), (0, None)]
    assert "the same command continues" in printed
    repaired = MadeRuns()
    assert states(backfill(repaired)[1]) == ["reused", "made", "made"]
    assert repaired.calls == [("2", "pack"), ("3", "pack")]


def test_parallel_extracts_the_next_versions_while_one_is_made(backfill: Any) -> None:
    extracted = threading.Event()

    def before(value: str, until: str) -> int:
        if (value, until) == ("1", "pack"):
            assert extracted.wait(30), "the extract of version 2 did not begin while version 1 was made"
        if (value, until) == ("2", "extract"):
            extracted.set()
        return 0

    runs = MadeRuns(before)
    code, result, _ = backfill(runs, "--parallel", "2")
    assert (code, states(result)) == (0, ["made"] * 3)
    assert [call for call in runs.calls if call[1] == "pack"] == [("1", "pack"), ("2", "pack"), ("3", "pack")]
    assert {call for call in runs.calls if call[1] == "extract"} == {("2", "extract"), ("3", "extract")}


def test_a_signal_ends_the_runs_and_gives_its_exit_code(backfill: Any) -> None:
    def before(value: str, until: str) -> int:
        if value == "2":
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    runs = MadeRuns(before)
    handler = signal.getsignal(signal.SIGTERM)
    code, result, printed = backfill(runs)
    assert (code, states(result), runs.ended_by) == (75, ["made", "stopped", "waiting"], signal.SIGTERM)
    assert "stopped by SIGTERM; the same command continues" in printed
    assert signal.getsignal(signal.SIGTERM) is handler
