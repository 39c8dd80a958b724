"""The acceptance command: its stages on a CPU without other wheels, its processes, deadlines and exit codes."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import find_exit_code, format_table, run_in_process, run_stages
from benchmarks.gpu_gates.catalogue import GATES, STAGES, TIMINGS, Stage
from benchmarks.gpu_gates.outcomes import FAIL, MEASURED, NOT_RUN, PASS, Outcome, Setting, judge, measured
from dataops.home import CHECKOUT

WHEELS = """
torch numpy PIL pyarrow pydantic safetensors simplejpeg cv2 filelock ftfy msgspec tokenizers xxhash threadpoolctl
torchgen functorch typing_extensions sympy mpmath networkx jinja2 markupsafe fsspec setuptools pkg_resources
pydantic_core annotated_types typing_inspection wcwidth huggingface_hub
benchmarks training dataops
"""
"""What docs/gpu.md names for a bare machine, what these wheels require, and our own packages."""
BLOCKER = f"""
import sys
from importlib.machinery import PathFinder
ALLOWED = set({WHEELS!r}.split()) | sys.stdlib_module_names

class OnlyAllowed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        return super().find_spec(name, path, target) if top in ALLOWED or top.startswith("_") else None

sys.meta_path[:] = [OnlyAllowed if finder is PathFinder else finder for finder in sys.meta_path]
"""
NEEDS_MORE = {"CPU = card, 20 fp32 steps", "fp8 = bf16, 50 steps", "losses = open_clip's", "zero-shot = open_clip's"}
"""Gates that need a card or open_clip."""


@pytest.mark.timeout(600)
def test_all_gates_of_a_cpu_pass_on_a_bare_machine(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{CHECKOUT}", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--device",
        "cpu",
        "--seconds",
        "580",
        "--json",
        tmp_path / "out",
    ]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["device", *(stage.name for stage in STAGES)]
    found = {line["stage"]: line["status"] for line in lines}
    gates = {stage.name for stage in GATES if stage.is_gate}
    assert {name for name in gates if found[name] != PASS} == NEEDS_MORE
    assert {found[name] for name in NEEDS_MORE} == {NOT_RUN}
    assert {found[name] for name in ("environment", "ViT-B-32, ours", "training job", "loader")} == {MEASURED}
    assert all(line["message"] for line in lines if line["status"] == NOT_RUN)
    assert "samples/s" in run.stdout


class Spawned(Setting):
    """A setting whose processes do not import torch."""

    is_toy = False

    def processes(self) -> BaseContext:
        return multiprocessing.get_context("spawn")


def succeed(setting: Setting) -> Outcome:
    return judge("as it must be", passed=True)


def fail(setting: Setting, message: str) -> Outcome:
    raise ValueError(message)


def crash(setting: Setting) -> Outcome:
    os.abort()


def hang(setting: Setting, note: str) -> Outcome:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(note).with_suffix(".part").write_text(str(child.pid))
    Path(note).with_suffix(".part").rename(note)
    time.sleep(600)
    return judge("never", passed=True)


def make_stage(function: str, *arguments: object, seconds: float = 60, is_gate: bool = True) -> Stage:
    return Stage(function, f"{__name__}:{function}", seconds, arguments, is_gate)


def test_a_stage_that_crashes_or_raises_ends_alone(tmp_path: Path) -> None:
    stages = [make_stage("crash"), make_stage("fail", "no such kernel"), make_stage("succeed")]
    found = [outcome for _, outcome, _ in run_stages(stages, Spawned("cuda", tmp_path), 600)]
    assert [outcome.status for outcome in found] == [FAIL, FAIL, PASS]
    assert "exit code -6" in found[0].message
    assert found[1].message == "ValueError: no such kernel"


def test_a_gate_that_hangs_fails_and_what_it_started_ends(tmp_path: Path) -> None:
    note, seconds = tmp_path / "child", 1.5
    while not note.exists():  # a busy machine takes longer to start it
        seconds *= 2
        stage = make_stage("hang", str(note), seconds=seconds)
        ((_, outcome, _),) = run_stages([stage], Spawned("cuda", tmp_path), 600)
        assert outcome.status == FAIL
        assert outcome.message == f"did not end within {seconds:.0f} s"
    status = Path(f"/proc/{note.read_text()}/stat")
    deadline = time.monotonic() + 30
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "what it started has ended"
        time.sleep(0.05)


def test_what_the_time_does_not_reach_is_not_run_and_never_passes(tmp_path: Path) -> None:
    setting = Spawned("cuda", tmp_path)
    late = run_in_process(make_stage("hang", str(tmp_path / "child")), setting, 0.1)
    assert late.status == NOT_RUN
    ((stage, unreached, _),) = run_stages([make_stage("succeed")], setting, 0)
    assert unreached.status == NOT_RUN
    assert find_exit_code([(stage, unreached)]) == find_exit_code([(stage, late)]) == 1


def test_the_exit_code_is_that_of_the_worst_stage() -> None:
    gate, timing = GATES[1], TIMINGS[0]
    passed, failed, missing = judge("", passed=True), judge("", passed=False), Outcome(NOT_RUN, "needs a card")
    unreached = Outcome(NOT_RUN, "late", {"reached": False})
    assert find_exit_code([(gate, passed), (gate, missing), (timing, measured()), (timing, unreached)]) == 0
    assert find_exit_code([(gate, passed), (gate, failed)]) == 1
    assert find_exit_code([(gate, passed), (timing, Outcome(FAIL, "crashed"))]) == 1


def test_without_a_device_the_exit_code_is_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "run_in_process", lambda *_: Outcome(NOT_RUN, "torch sees no CUDA device"))
    monkeypatch.setattr(sys, "argv", ["gpu", "--json", str(tmp_path / "out")])
    assert gpu.main() == 2
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert json.loads(line)["message"] == "torch sees no CUDA device"


def test_the_table_has_the_ratio_to_open_clip() -> None:
    def row(variant: str, rate: float, mfu: float | None) -> Outcome:
        figures = {"model": "ViT-B-32", "variant": variant, "samples_per_second": rate, "mfu": mfu, "peak_gb": 31.25}
        return measured(**figures)

    lines = format_table([row("ours", 9000, 0.4), row("open_clip", 4500, None), judge("", passed=True)]).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["ViT-B-32", "ours", "9,000", "40.0%", "31.2", "2.00"],
        ["ViT-B-32", "open_clip", "4,500", "-", "31.2", "1.00"],
    ]
