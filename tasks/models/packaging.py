"""The registered model's files: weights, and all the code and the list of packages that they need to load elsewhere."""

import ast
import base64
import importlib.metadata
import io
import shutil
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataops.home import CHECKOUT

CODE = CHECKOUT / "tasks" / "models" / "pyfunc.py"
OURS = ("training", "dataops")
MODEL_FILES = ("model.safetensors", "model.json", "tokenizer.json")
DISTRIBUTIONS = {"PIL": "pillow"}
"""Where a package's name is not the one that it is imported by. (Asking all installed packages takes two seconds.)"""


@dataclass
class Closure:
    """The modules of this checkout that some code imports, and the other packages that they import."""

    files: dict[str, Path] = field(default_factory=dict)
    """By path relative to the checkout."""
    packages: set[str] = field(default_factory=set)
    """Top-level import names from outside the standard library."""


def closure(path: Path) -> Closure:
    """All that the file and what it imports import, read from the source: nothing is run.

    A model then carries the few modules that it needs, and a change of any other does not touch it.
    """
    found, todo = Closure(), [path]
    while todo:
        for name in sorted(_imported(todo.pop())):
            top = name.partition(".")[0]
            if top in OURS:
                for module in _files_of(name):
                    relative = module.relative_to(CHECKOUT).as_posix()
                    if relative not in found.files:
                        found.files[relative] = module
                        todo.append(module)
            elif top not in sys.stdlib_module_names:
                found.packages.add(top)
    return found


def _imported(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere in it; `from a import b` gives `a` and `a.b`, which may be a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _files_of(name: str) -> list[Path]:
    """The module's file and the `__init__.py` of each package above it; empty parts of the name are attributes."""
    parts = name.split(".")
    inits = [CHECKOUT.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    module = CHECKOUT.joinpath(*parts).with_suffix(".py")
    return [path for path in (*inits, module) if path.is_file()]


def requirements(packages: Iterable[str]) -> list[str]:
    """`name==version` of what is installed here, for each top-level import name, sorted.

    A local version (torch's `+cpu`) is cut off: no package index knows it.
    """
    names = [DISTRIBUTIONS.get(package, package) for package in packages]
    return sorted(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names)


def write_model(folder: Path, weights: dict[str, Path], mlflow_model: Any) -> None:
    """Write the pyfunc model into `folder`, which must not exist yet.

    Args:
        weights: local files by the names of MODEL_FILES.
        mlflow_model: an `mlflow.models.Model` that knows its run and its logged model.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)  # of MLflow's own, at import
        import mlflow.pyfunc

    needed = closure(CODE)
    staging = folder.with_name(f"{folder.name}-staging")
    for relative, source in needed.files.items():
        _copy(source, staging / "code" / relative)
    for name in MODEL_FILES:
        _copy(weights[name], staging / "model" / name)
    mlflow.pyfunc.save_model(
        path=folder,
        python_model=str(CODE),
        artifacts={"model": str(staging / "model")},
        code_paths=[str(staging / "code" / name) for name in OURS if (staging / "code" / name).is_dir()],
        pip_requirements=requirements(needed.packages),
        signature=signature(),
        input_example=input_example(),
        model_config={"device": "cpu", "batch_size": 64, "image_folder": ""},
        mlflow_model=mlflow_model,
    )
    shutil.rmtree(staging)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def signature() -> Any:
    """Columns and params of tasks/models/pyfunc.py, as MLflow checks them before each call."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    numbers = Array(DataType.double)
    outputs = [
        ColSpec(DataType.string, "label", required=False),
        ColSpec(DataType.double, "probability", required=False),
        ColSpec(numbers, "probabilities", required=False),
        ColSpec(numbers, "similarities", required=False),
        ColSpec(DataType.string, "error", required=False),
    ]
    params = [ParamSpec("texts", "string", [], (-1,)), ParamSpec("templates", "string", ["{c}"], (-1,))]
    inputs = Schema([ColSpec(DataType.binary, "image")])
    return ModelSignature(inputs, Schema([*outputs]), ParamSchema(params))


def input_example() -> tuple[Any, dict[str, Any]]:
    """A small drawing, so that no training picture (which may have to be taken down) lies in the registry."""
    import pandas as pd
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill="red")
    sink = io.BytesIO()
    image.save(sink, "PNG")
    frame = pd.DataFrame({"image": [base64.b64encode(sink.getvalue()).decode()]})
    return frame, {"texts": ["a red circle", "a blue square"]}
