"""pairmill: from raw web archives to a registered CLIP model.

The only import name of the distribution. The wheel has the code of the stages in `pairmill/app`, under the names that it
has in a checkout (`flows`, `tasks`, `training`, ...); `import pairmill` makes none of them importable.

    import pairmill

    pairmill.run("mine.toml")
    frame = pairmill.dataset("mine").frame()
    model = pairmill.model("mine@champion")
    model.classify(["a.jpg"], ["a cat", "a dog"])
"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import Any

from pairmill.commands import CommandError, diff, plan, run, runs, trace
from pairmill.data import Dataset, Sample, dataset
from pairmill.models import Classified, Model, model

__version__ = _version("pairmill")
__all__ = [
    "Classified",
    "CommandError",
    "Dataset",
    "Model",
    "Sample",
    "dataset",
    "diff",
    "model",
    "plan",
    "run",
    "runs",
    "trace",
]

_PLUGIN_OBJECTS = {
    "Check": "tasks.checks.check",
    "Column": "dataops.schema",
    "DropReason": "dataops.schema",
    "Loss": "training.losses.loss",
    "Rule": "dataops.filters",
    "RunListener": "flows.listeners.base",
    "Signal": "dataops.rights.signals",
    "Source": "tasks.extract.sources.base",
    "StageConfig": "dataops.config",
    "Step": "tasks.curate.step",
}
"""What a plugin implements, by name, and its module. They exist where a plugin is loaded: in a command or a job."""


def __getattr__(name: str) -> Any:
    if name in _PLUGIN_OBJECTS:
        return getattr(import_module(_PLUGIN_OBJECTS[name]), name)
    raise AttributeError(f"module 'pairmill' has no attribute {name!r}")
