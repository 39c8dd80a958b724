import ast
import base64
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from tasks.models.packaging import CODE, closure, requirements


def test_closure_is_what_runs_and_little_more() -> None:
    found = closure(CODE)
    assert {
        "training/__init__.py",
        "training/model/checkpoint.py",
        "training/evaluation/encode.py",
        "dataops/errors.py",
    } <= set(found.files)
    assert not {"training/train.py", "training/loop/optim.py", "dataops/store.py"} & set(found.files)
    assert {"torch", "safetensors", "tokenizers", "mlflow"} <= found.packages
    assert not {"prefect", "boto3", "img2dataset", "matplotlib"} & found.packages


def test_closure_holds_every_module_that_its_own_modules_import() -> None:
    files = closure(CODE).files
    for path in files.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("training.", "dataops.")):
                name = (node.module or "").replace(".", "/")
                assert {f"{name}.py", f"{name}/__init__.py"} & set(files)


def test_closure_reads_every_form_of_import(tmp_path: Path) -> None:
    code = "import os\nimport dataops.errors as e\ndef f():\n    from training import config\n    import numpy.linalg\n"
    (tmp_path / "code.py").write_text(code)
    found = closure(tmp_path / "code.py")
    assert {"dataops/errors.py", "training/config.py", "training/__init__.py"} <= set(found.files)
    assert found.packages == {"numpy", "pydantic"}


def test_requirements_are_pinned_without_local_versions() -> None:
    pins = requirements(closure(CODE).packages)
    assert f"torch=={version('torch').partition('+')[0]}" in pins
    assert f"pillow=={version('pillow')}" in pins
    assert not [pin for pin in pins if "+" in pin]
    assert pins == sorted(pins)


# mlflow.pyfunc warns of its own type hints when it is imported
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_a_cell_is_bytes_or_base64_and_never_a_path() -> None:
    from tasks.models.pyfunc import image_bytes

    data = b"\x89PNG" + bytes(range(256))
    text = base64.b64encode(data).decode()
    for value in (data, bytearray(data), memoryview(data), text, f"data:image/png;base64,{text}"):
        assert image_bytes(value) == data
    for value in (str(Path(__file__)), "http://example.org/x.png", "file:///etc/passwd", "", None, 3.5, float("nan")):
        assert image_bytes(value) == b""


def test_nothing_in_the_orchestrators_reach_loads_what_takes_long() -> None:
    import subprocess

    code = """
import sys, flows.config, tasks.register.stage
print(*sorted({"torch", "mlflow", "prefect", "numba", "matplotlib", "img2dataset", "scrapy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
