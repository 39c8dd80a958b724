"""What plugs into a training: losses, optimizers, schedules, and hooks, each registered by an entry point.

    pairmill.losses          a `Loss` (training/losses/loss.py), chosen by `train.loss`
    pairmill.optimizers      an `OptimizerBuilder` (training/optimizers.py), chosen by `train.optimizer`
    pairmill.schedules       a `Schedule` (training/optimizers.py), chosen by `train.schedule`
    pairmill.training_hooks  a `TrainingHook`: it acts where a config sets one of its keys

Modules with these objects import no torch: the orchestrator reads their configs. The objects have no state of their own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from dataops import plugins
from dataops.errors import ConfigError

if TYPE_CHECKING:
    from dataops.snapshot import Input, Manifest
    from dataops.store import Store
    from training.config import TrainConfig
    from training.model_config import ModelConfig

CHOICES = {"loss": "losses", "optimizer": "optimizers", "schedule": "schedules"}
"""Kind of the objects among which a key of `[train]` chooses."""
HOOKS = "training_hooks"
KINDS = (*CHOICES.values(), HOOKS)


class Extension:
    """One registered object with keys of its own in `[train]`."""

    config: type[BaseModel] | None = None
    """Model of its keys."""
    table: str | None = None
    """Table below `[train]` that holds its keys; None: they are keys of `[train]` itself."""
    order: int = 100
    """Place among the hooks: those with lower numbers act first, and equal ones in the order of their names."""
    version: ClassVar[int] = 1
    """Raised when the same keys give another model; part of the key of a snapshot that uses the object."""
    execution_fields: frozenset[str] = frozenset()
    """Keys that change no bit of the model, and stay out of the key of the snapshot."""

    def settings(self, config: "TrainConfig") -> Any:
        """Return the object's own keys, as an instance of `config`; their defaults where a config lacks the table."""
        if self.table is not None:
            found = getattr(config, self.table)
            return self.config() if found is None and self.config else found
        return self.config and self.config.model_construct(**{n: getattr(config, n) for n in self.config.model_fields})

    def check(self, config: "TrainConfig") -> None:
        """Raise a ValueError with the key and a remedy if keys contradict each other."""


class TrainingHook(Extension):
    """What changes a training; a `StepHook` (training/step_hooks.py) also acts in the training itself.

    Its methods are called where a config uses it; their defaults change nothing.
    """

    artifacts: tuple[str, ...] = ()
    """Files in the folder of a job, if they are there, that its MLflow run shows at once; `list_output` keeps them."""

    def is_used(self, config: "TrainConfig") -> bool:
        """Return whether a config sets one of the keys to anything but its default."""
        names = [self.table] if self.table else list(self.config.model_fields if self.config else ())
        fields = type(config).model_fields
        return any(getattr(config, name) != fields[name].default for name in names)

    def problems(self, config: "TrainConfig") -> list[str]:
        """Return what is missing on this machine: lines that begin with the key."""
        return []

    def external_inputs(self, config: "TrainConfig") -> list["Input"]:
        """Return the files that decide the model, with their digests, for the key of the snapshot."""
        return []

    def describe_weights(self, config: "TrainConfig") -> list[dict[str, Any]]:
        """Return tower, name, version, license, file and sha256 of the weights that it starts from, for the model card."""
        return []

    def pretrained_towers(self, config: "TrainConfig") -> frozenset[str]:
        """Return the towers ("image", "text") that it gives pretrained weights."""
        return frozenset()

    def dimensions(self, config: "TrainConfig", dimensions: "ModelConfig") -> "ModelConfig":
        """Return the dimensions of the model that is trained. Raises: ConfigError."""
        return dimensions

    def prepare_job(self, config: "TrainConfig", store: "Store", datasets: "Sequence[Manifest]", folder: Path) -> None:
        """Write further files into the folder of a job, before it starts. Raises: ConfigError."""

    def list_output(self, folder: Path) -> list[Path]:
        """Return further files in the folder of a finished job that its snapshot keeps, by their paths there."""
        return []

    def facts(self, folder: Path) -> dict[str, Any]:
        """Return what the manifest states, under the table of the hook, of a finished job in a folder."""
        return {}

    def curve_writers(self, config: "TrainConfig", key: str, home: Path) -> dict[str, Callable[[], Any]]:
        """Return a function that opens each `CurveWriter` (tasks.train.curves.py), by the name in messages.

        Args:
            key: of the snapshot.
            home: pairmill's own folder.
        """
        return {}


def used_hooks(config: "TrainConfig") -> list[TrainingHook]:
    """Return the hooks of which a config sets a key, in their order."""
    return [hook for hook in plugins.load(HOOKS).values() if hook.is_used(config)]


def check_choice(key: str) -> Callable[[str], str]:
    """Return a validator of the key that chooses one of the objects of a kind."""

    def check(name: str) -> str:
        try:
            plugins.find(CHOICES[key], name)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return name

    return check
