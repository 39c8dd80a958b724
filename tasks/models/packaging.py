"""Write the files of a registered model: the weights, and the code and list of packages that load them anywhere."""

import ast
import base64
import importlib.metadata
import io
import json
import shutil
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataops import plugins
from dataops.home import CHECKOUT
from dataops.regular_files import read_text
from training.model_config import ModelConfig

PYFUNC = CHECKOUT / "tasks" / "models" / "pyfunc.py"
OUR_PACKAGES = ("training", "dataops", "plugins")
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless"}
"""Distributions whose name differs from that of their package. (To search all installed ones takes two seconds.)"""


@dataclass
class Imports:
    """The modules of this checkout that a file imports, directly or not, and the other packages that they import."""

    files: dict[str, Path] = field(default_factory=dict)
    """Modules by their path relative to the checkout."""
    packages: set[str] = field(default_factory=set)
    """Top-level packages that are not in the standard library."""


def collect_imports(path: Path, modules: Iterable[str] = ()) -> Imports:
    """Return all that a file and some modules import, directly or not, parsed from the source without execution.

    A model thus holds the few modules that it needs, and a change of any other leaves it the same.
    """
    found, todo = Imports(), [path]
    names = {*modules}
    while todo:
        for name in sorted(names | _parse_imports(todo.pop())):
            top = name.partition(".")[0]
            if top in OUR_PACKAGES:
                for module in _find_files(name):
                    relative = module.relative_to(CHECKOUT).as_posix()
                    if relative not in found.files:
                        found.files[relative] = module
                        todo.append(module)
            elif top not in sys.stdlib_module_names:
                found.packages.add(top)
        names.clear()
    return found


def _parse_imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports; for `from a import b`, `a` and `a.b`, which may be a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _find_files(name: str) -> list[Path]:
    """Return the module's file, if the name is one, and the `__init__.py` of each package above it."""
    parts = name.split(".")
    inits = [CHECKOUT.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    module = CHECKOUT.joinpath(*parts).with_suffix(".py")
    return [path for path in (*inits, module) if path.is_file()]


def pin_requirements(packages: Iterable[str]) -> list[str]:
    """Return `name==version` of the installed distribution of each package, sorted.

    A local version (torch's `+cpu`) is removed: no package index has it.
    """
    names = [DISTRIBUTIONS.get(package, package) for package in packages]
    return sorted(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names)


def write_model(folder: Path, weights: dict[str, Path], mlflow_model: object) -> None:
    """Write the pyfunc model into a new `folder`.

    Args:
        weights: local files by the names of MODEL_FILES.
        mlflow_model: an `mlflow.models.Model` with the ids of its run and its logged model.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)  # MLflow itself causes it
        import mlflow.pyfunc

    staging = folder.with_name(f"{folder.name}-staging")
    needed = copy_code(read_text(weights["model.json"]), staging / "code")
    for name, path in weights.items():
        _copy(path, staging / "model" / name)
    mlflow.pyfunc.save_model(
        path=folder,
        python_model=str(PYFUNC),
        artifacts={"model": str(staging / "model")},
        code_paths=[str(staging / "code" / name) for name in OUR_PACKAGES if (staging / "code" / name).is_dir()],
        pip_requirements=pin_requirements(needed.packages),
        signature=build_signature(),
        input_example=build_input_example(),
        model_config={"device": "cpu", "batch_size": 64, "image_folder": ""},
        mlflow_model=mlflow_model,
    )
    shutil.rmtree(staging)


def copy_code(card: str, folder: Path) -> Imports:
    """Copy the code that a model needs, with that of its networks, and return what it imports.

    Args:
        card: content of model.json.
    """
    fields = {name: value for name, value in json.loads(card).items() if name in ModelConfig.model_fields}
    targets = plugins.targets("networks")
    points = {name: targets[name] for name in ModelConfig.model_validate(fields).networks()}
    needed = collect_imports(PYFUNC, [value.partition(":")[0] for value in points.values()])
    for relative, source in needed.files.items():
        _copy(source, folder / relative)
    lines = ["[pairmill.networks]", *(f"{name} = {value}" for name, value in sorted(points.items()))]
    (folder / plugins.COPIED_POINTS).write_text("\n".join(lines) + "\n", "utf-8")
    return needed


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def build_signature() -> Any:
    """Return the columns and params of tasks/models/pyfunc.py, which MLflow checks before each call."""
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


def build_input_example() -> tuple[Any, dict[str, Any]]:
    """Return a drawn image and texts, so that the registry holds no training image, which may have to be taken down."""
    import pandas as pd
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill="red")
    sink = io.BytesIO()
    image.save(sink, "PNG")
    frame = pd.DataFrame({"image": [base64.b64encode(sink.getvalue()).decode()]})
    return frame, {"texts": ["a red circle", "a blue square"]}
