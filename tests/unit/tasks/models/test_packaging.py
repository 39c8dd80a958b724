import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from dataops.home import CHECKOUT
from tasks.models.packaging import PYFUNC, collect_imports, pin_requirements


def test_collect_imports_returns_the_modules_of_the_pyfunc_and_no_others() -> None:
    found = collect_imports(PYFUNC)
    assert {
        "training/__init__.py",
        "training/model/checkpoint.py",
        "training/evaluation/encode.py",
        "dataops/errors.py",
    } <= set(found.files)
    assert not {"training/train.py", "training/loop/optim.py", "dataops/store.py"} & set(found.files)
    assert {"torch", "safetensors", "tokenizers", "mlflow"} <= found.packages
    assert not {"prefect", "boto3", "img2dataset", "matplotlib"} & found.packages


def test_collect_imports_parses_every_form_of_import(tmp_path: Path) -> None:
    code = "import os\nimport dataops.errors as e\ndef f():\n    from training import model_config\n"
    code += "    import numpy.linalg\n"
    (tmp_path / "code.py").write_text(code)
    found = collect_imports(tmp_path / "code.py")
    assert {"dataops/errors.py", "training/model_config.py", "training/__init__.py"} <= set(found.files)
    assert found.packages == {"numpy", "pydantic"}


def test_pin_requirements_omits_local_versions() -> None:
    pins = pin_requirements(collect_imports(PYFUNC).packages)
    assert f"torch=={version('torch').partition('+')[0]}" in pins
    assert f"pillow=={version('pillow')}" in pins
    assert not [pin for pin in pins if "+" in pin]
    assert pins == sorted(pins)


def test_orchestrator_imports_no_slow_package() -> None:
    code = """
import sys, flows.config, tasks.register.stage
print(*sorted({"torch", "mlflow", "prefect", "numba", "matplotlib", "img2dataset", "scrapy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
