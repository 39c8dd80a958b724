"""The acceptance command: its stages on a CPU without other wheels, its processes, deadlines and exit codes."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu import DEVICE, SECONDS, select_stages
from benchmarks.gpu_gates.catalogue import FIRST, GATES, STAGES
from benchmarks.gpu_gates.outcomes import FAIL, MEASURED, NOT_RUN, PASS
from dataops.home import CHECKOUT

WHEELS = """
torch numpy PIL pyarrow pydantic safetensors simplejpeg cv2 filelock ftfy msgspec tokenizers xxhash threadpoolctl
torchgen functorch typing_extensions sympy mpmath networkx jinja2 markupsafe fsspec setuptools pkg_resources
pydantic_core annotated_types typing_inspection wcwidth huggingface_hub
benchmarks plugins tests training dataops
"""
"""What docs/train/gpu.md names for a bare machine, what these wheels require, and our own packages."""
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
SHOWN = ("ViT-B-16", "ViT-L", "RN50", "two ranks = one")
"""What ViT-B-32 and "sharded, resumed", which calls the same function, show."""
NEEDS_MORE = {"CPU = card, 20 fp32 steps", "fp8 = bf16, 50 steps", "losses = open_clip's", "zero-shot = open_clip's"}
"""Gates that need a card or open_clip."""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_all_gates_of_a_cpu_pass_on_a_bare_machine(tmp_path):
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
        "--stages",
        f"^(?!{'|'.join(SHOWN)})",
        "--json",
        tmp_path / "out",
    ]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [
        "device",
        *(s.name for s in STAGES if not s.name.startswith(SHOWN)),
    ]
    found = {line["stage"]: line["status"] for line in lines}
    gates = {stage.name for stage in GATES if not stage.name.startswith(SHOWN)}
    assert {name for name in gates if found[name] != PASS} == NEEDS_MORE
    assert {found[name] for name in NEEDS_MORE} == {NOT_RUN}
    assert {found[name] for name in ("environment", "ViT-B-32, ours", "training job", "loader")} == {MEASURED}
    assert all(line["message"] for line in lines if line["status"] == NOT_RUN)
    assert "samples/s" in run.stdout


def test_the_first_stages_fit_into_the_time_of_a_run():
    """Five gates, ViT-B/16 and ViT-B/32 compiled, a training job and the loader, even if each takes until its deadline."""
    assert sum(stage.is_gate for stage in FIRST) == 5
    needed = {"ViT-B-16, ours, compiled", "ViT-B-32, ours, compiled", "training job", "loader"}
    assert needed <= {stage.name for stage in FIRST}
    assert sum(stage.seconds for stage in (DEVICE, *FIRST)) <= SECONDS
    assert len({stage.name for stage in STAGES}) == len(STAGES)


def test_a_run_continues_another_with_the_stages_that_did_not_end_well(tmp_path):
    """A pattern chooses among them; what has passed counts in the table and in the exit code."""
    earlier = tmp_path / "out"
    lines = {"syncs in a step": PASS, "packed = padded": FAIL, "loader": MEASURED, "ViT-B-16, ours": NOT_RUN}
    whole = [{"stage": name, "status": status, "message": "", "figures": {"n": 1}} for name, status in lines.items()]
    whole.append({**whole[1], "status": NOT_RUN})
    earlier.write_text("".join(json.dumps(line) + "\n" for line in whole))
    stages, good = select_stages("sync.*step|packed|loader|B-16, ours$", earlier)
    assert [stage.name for stage in stages] == ["packed = padded", "ViT-B-16, ours"]
    assert {stage.name: outcome.status for stage, outcome in good} == {"syncs in a step": PASS, "loader": MEASURED}
    assert [len(select_stages("", path)[0]) for path in (None, earlier)] == [len(STAGES), len(STAGES) - 2]


@pytest.mark.parametrize("wrong", [["--stages", "["], ["--stages", "B-16, theirs"], ["--continue", "none.jsonl"]])
def test_no_stage_and_no_earlier_run_are_no_pass(wrong):
    run = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *wrong], cwd=CHECKOUT, capture_output=True, text=True)
    assert run.returncode == 2
    assert wrong[1] in run.stderr
    assert "Traceback" not in run.stderr
