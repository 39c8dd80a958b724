"""The `[evaluate]` table."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import PositiveInt

from dataops.config import PATH, StageConfig
from dataops.errors import ConfigError
from training.evaluation.suite import Precision, Suite, load_suite


class EvaluateConfig(StageConfig):
    """Settings of the evaluation."""

    # The suite's digest is an input of the stage: the folder of its files does not change the result.
    execution_fields: ClassVar[frozenset[str]] = frozenset({"suite", "data", "device", "nproc"})

    suite: Annotated[Path, *PATH] | None = None
    """TOML file with the list of tasks: your evaluation sets. Without it nothing is evaluated, and the registered version
    is a candidate."""
    data: Annotated[Path, *PATH] | None = None
    """Folder of the tasks' relative roots; by default the folder of the suite file."""
    batch_size: PositiveInt = 256
    """Number of images that are encoded at a time."""
    precision: Precision = "fp32"
    """Precision of the weights and of the computation in both towers. bf16_texts: the weights and the image tower are fp32,
    and the text tower computes in bf16, which is faster on processors with units for it and moves scores less than bf16."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto is cuda if torch finds one, else cpu."""
    nproc: PositiveInt = 1
    """Number of processes that share the work, on one GPU each, or on the CPU cores."""
    contamination: bool = True
    """Search the training images for the suite's images."""

    def load(self) -> Suite:
        """Return the suite, validated. Raises: ConfigError if there is none, or with all its problems."""
        if self.suite is None:
            raise ConfigError(
                "is not set; set it to a TOML file with your evaluation sets (docs/evaluate/evaluation.md)"
            )
        return load_suite(self.suite, self.data)
