"""The `[evaluate]` table."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from dataops.config import StageConfig, problems_of
from training.evaluation.suite import Suite, load_suite


class EvaluateConfig(StageConfig):
    """The `[evaluate]` table."""

    # The suite's digest is an input of the stage: where its files lie says nothing about the result.
    execution_fields: ClassVar[frozenset[str]] = frozenset({"suite", "data", "device", "nproc"})

    suite: Path = Path("configs/suites/demo.toml")
    """TOML file with the list of tasks."""
    data: Path | None = None
    """Folder that the tasks' relative roots start from; the suite file's own folder where none is given."""
    batch_size: int = Field(default=256, ge=1)
    """Images encoded at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the weights and of all that the towers compute."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where torch sees it, else cpu."""
    nproc: int = Field(default=1, ge=1)
    """Processes that share out the work, on one GPU each, or on the cores."""
    contamination: bool = True
    """Look for the suite's pictures among those that the model was trained on."""

    def load(self) -> Suite:
        """The suite, checked. Raises: ConfigError that lists all that is wrong with it."""
        return load_suite(self.suite, self.data)

    def problems(self) -> list[str]:
        """Return what is wrong with the suite."""
        return problems_of("suite", self.load)
