"""The keys `train.tensorboard`, `train.wandb` and `train.profile`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dataops.config import ConfigPath, FrozenModel
from training.hooks import TrainingHook
from training.step_hooks import StepHook

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.job import Job
    from training.model.clip import CLIP

TRACE = "evidence-profile.json.gz"
"""Name of the file that `profile` writes."""


class CurvesConfig(FrozenModel):
    """Settings of the curves."""

    tensorboard: Annotated[ConfigPath, Field(min_length=1)] | None = None
    """Folder for TensorBoard's event files of the curves, in a subfolder for each snapshot; needs `pip install
    'pairmill[tensorboard]'`."""
    wandb: Annotated[str, Field(pattern=r"^([\w.-]+/)?[\w.-]+$")] | None = None
    """Project of Weights & Biases (or entity/project) that shows the curves; needs `pip install 'pairmill[wandb]'`. Log in
    by WANDB_API_KEY in the environment of the run; WANDB_MODE=offline writes files only."""


class _Curves(TrainingHook):
    config = CurvesConfig
    execution_fields = frozenset(CurvesConfig.model_fields)

    def problems(self, config: "TrainConfig") -> list[str]:
        return [
            f"{name}: the package {name} is not installed: pip install 'pairmill[{name}]'"
            for name, value in self.settings(config)
            if value is not None and find_spec(name) is None
        ]

    def curve_writers(self, config: "TrainConfig", key: str, home: Path) -> dict[str, Callable[[], Any]]:
        from plugins.curves.writers import EventFiles, WandbRun
        from tasks.tracking.run_metadata import flatten_params

        settings, makers = self.settings(config), dict[str, Callable[[], Any]]()
        if settings.tensorboard is not None:
            makers["TensorBoard"] = lambda: EventFiles(Path(settings.tensorboard) / f"train-{key}")
        if settings.wandb is not None:
            params = flatten_params({"train": config.model_dump(mode="json")})
            makers["Weights & Biases"] = lambda: WandbRun(settings.wandb, f"train-{key}", params, home / "wandb")
        return makers


CURVES = _Curves()


class ProfileConfig(FrozenModel):
    """The key of the trace."""

    profile: Annotated[int, Field(ge=0, le=50)] = 0
    """Steps that torch's profiler traces into evidence-profile.json.gz, once per training, after its first ten; 0: none."""


class _Profile(StepHook):
    config = ProfileConfig
    execution_fields = frozenset(ProfileConfig.model_fields)
    artifacts = (TRACE,)

    def watch_steps(
        self, job: "Job", config: "TrainConfig", steps: int, model: "CLIP"
    ) -> AbstractContextManager[Callable[[], object]]:
        from plugins.curves.profiling import StepProfiler

        return StepProfiler(job.output / TRACE, self.settings(config).profile, steps, model.logit_scale.device)

    def list_output(self, folder: Path) -> list[Path]:
        return [path for path in [folder / TRACE] if path.exists()]


PROFILE = _Profile()
