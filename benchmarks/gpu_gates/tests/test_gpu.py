"""The acceptance command: its stages on a CPU without other wheels, its processes, deadlines and exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_gates.catalogue import GATES, STAGES
from benchmarks.gpu_gates.outcomes import MEASURED, NOT_RUN, PASS
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
