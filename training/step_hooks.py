"""What a hook changes in a training itself: the first weights, the inputs of a step, and how the modules compute.

Modules with these objects import no torch: the orchestrator reads their configs.

Legend: B pairs of this rank, S side of an image, W width of a feature.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from training.hooks import TrainingHook, used_hooks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from training.config import TrainConfig
    from training.data.loader import Batch, Dataset
    from training.data.sample_index import SampleIndex
    from training.data.sampling_plan import Plan
    from training.job import Job
    from training.model.clip import CLIP
    from training.model.tokenizer import Tokenizer
    from training.model_config import ModelConfig


class StepHook(TrainingHook):
    """A hook that acts in the training; the defaults of its methods change nothing."""

    # Before the first step; all ranks together

    def change_plan(self, plan: "Plan", job: "Job", index: "SampleIndex") -> "Plan":
        """Return another plan of the samples of each step. Raises: ConfigError, ContractError."""
        return plan

    def load_tokenizer(self, config: "TrainConfig", dimensions: "ModelConfig") -> "Tokenizer | None":
        """Return the vocabulary of a text tower that brings one."""
        return None

    def initialize(self, model: "CLIP", config: "TrainConfig") -> None:
        """Change the first weights, on the CPU. Raises: ConfigError."""

    def convert(self, model: "CLIP", device: "torch.device", config: "TrainConfig") -> None:
        """Change how the modules compute, before the model is placed on the ranks. Raises: ConfigError."""

    def compute_features(
        self, job: "Job", config: "TrainConfig", model: "CLIP", tokenizer: "Tokenizer", dataset: "Dataset"
    ) -> "Callable[[Sequence[str]], Tensor] | None":
        """Return a function from captions to features (B, W), in place of tokens; give the dataset those of images.

        The features of a shard depend on other shards by `dataset.shards_at_start` alone.
        """
        return None

    def start(
        self,
        model: "CLIP",
        config: "TrainConfig",
        dataset: "Dataset",
        text_features: "Callable[[Sequence[str]], Tensor] | None",
    ) -> None:
        """Change the first weights by the `dataset.shards_at_start`, where no checkpoint replaces them."""

    def scale_rates(self, model: "CLIP", config: "TrainConfig") -> "dict[nn.Parameter, float]":
        """Return factors of the learning rate by parameter; those of several hooks are multiplied."""
        return {}

    # In each step

    def watch_steps(
        self, job: "Job", config: "TrainConfig", steps: int, model: "CLIP"
    ) -> AbstractContextManager[Callable[[], object]]:
        """Return a context around the steps that a job still takes, of a function that is called after each."""
        return nullcontext(lambda: None)

    def make_inputs(self, batch: "Batch", config: "TrainConfig", seed: int) -> "dict[str, Tensor]":
        """Return tensors of a batch by name, on the CPU, in a thread of the loader; they are then copied to the device."""
        return {}

    changes_images: bool = False
    """Whether `change_images` does anything."""

    def change_images(self, images_B3SS: "Tensor", inputs: "Mapping[str, Tensor]", config: "TrainConfig") -> "Tensor":
        """Return changed images, in [0, 1], on their device."""
        return images_B3SS

    def change_features(self, features_BW: "Tensor", inputs: "Mapping[str, Tensor]", config: "TrainConfig") -> "Tensor":
        """Return changed features of a frozen image tower that were computed before."""
        return features_BW


def used_step_hooks(config: "TrainConfig") -> list[StepHook]:
    """Return the step hooks of which a config sets a key, in their order."""
    return [hook for hook in used_hooks(config) if isinstance(hook, StepHook)]
