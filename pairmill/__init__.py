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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pairmill.commands import CommandError, diff, plan, run, runs, trace
    from pairmill.data import Dataset, Sample, dataset
    from pairmill.models import Classified, Model, model

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
_MODULES = {
    "pairmill.commands": ("CommandError", "diff", "plan", "run", "runs", "trace"),
    "pairmill.data": ("Dataset", "Sample", "dataset"),
    "pairmill.models": ("Classified", "Model", "model"),
    # What a plugin implements: it exists where a plugin is loaded, in a command or a job.
    "dataops.config": ("StageConfig",),
    "dataops.filters": ("Rule",),
    "dataops.rights.signals": ("Signal",),
    "dataops.schema": ("Column", "DropReason"),
    "flows.listeners.base": ("RunListener",),
    "tasks.checks.check": ("Check",),
    "tasks.curate.step": ("Step",),
    "tasks.extract.sources.base": ("Source",),
    "training.losses.loss": ("Loss",),
}
"""Names of the package by the module that has them, which is imported when a name is used: the command starts faster."""
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("pairmill")
    raise AttributeError(f"module 'pairmill' has no attribute {name!r}")
