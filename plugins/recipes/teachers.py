"""The tables `[train.distill]` and `[train.reference]`: models whose features of the dataset a training reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dataops.snapshot import Input
from training.hooks import TrainingHook
from training.losses.loss import LossStep, find_loss
from training.model_config import FrozenModel, Positive

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from plugins.recipes.stored_features import StoredFeatures
    from training.config import TrainConfig
    from training.data.loader import Batch, Dataset
    from training.job import Job
    from training.losses.blocks import Shift
    from training.losses.contrastive import StepOutcome
    from training.model.clip import Outputs


class TeacherConfig(FrozenModel):
    """A model whose features of all pairs are computed once, before the first step, and kept."""

    model: Annotated[str, Field(min_length=1)]
    """Folder or file of a model, or a registered one (models:/NAME/VERSION)."""


class DistillConfig(TeacherConfig):
    """Distillation: the similarities of a batch's images and captions match those of a teacher."""

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the distillation in the loss; the contrastive loss has the rest."""
    scale: Positive | None = None
    """Factor of the teacher's cosines before the softmax; None: that of the teacher's own temperature."""


class _Teacher(TrainingHook):
    """A hook that reads the features of another model."""

    meaning: str
    """What the model was for the training, for its card."""

    def check(self, config: "TrainConfig") -> None:
        if config.shard_cache_bytes:
            raise ValueError(
                "shard_cache_bytes: features of distill and reference need all shards before training; set 0"
            )

    def external_inputs(self, config: "TrainConfig") -> list[Input]:
        files = _find_model(self.settings(config).model)
        return [Input(stage=f"train.{self.table}.model", key=files.name, digest=files.digest)]

    def find_files(self, config: "TrainConfig") -> dict[str, Path]:
        return {f"{self.table}.model": _find_model(self.settings(config).model).path}

    def describe_models(self, config: "TrainConfig") -> dict[str, str]:
        return {f"train.{self.table}.model": self.meaning}

    def prepare(self, job: "Job", dataset: "Dataset", device: "torch.device") -> "StoredFeatures":
        from plugins.recipes.teacher_features import prepare_features

        name = self.settings(job.train).model
        path = job.files.get(f"{self.table}.model", Path(name))
        return prepare_features(job.features_folder, path, f"train.{self.table}.model {name}", dataset, device)

    def _read(self, batch: "Batch", prepared: "StoredFeatures") -> "Tensor":
        import torch

        return torch.from_numpy(prepared.read(batch.samples))


class _Distill(_Teacher):
    config, table, meaning = DistillConfig, "distill", "Distilled from"

    def make_inputs(
        self, batch: "Batch", config: "TrainConfig", seed: int, prepared: "StoredFeatures"
    ) -> "dict[str, Tensor]":
        import torch

        scale = self.settings(config).scale or math.exp(prepared.logit_scale)
        return {"teacher_B2T": self._read(batch, prepared), "teacher_scale": torch.tensor(scale)}

    def change_loss(self, outcome: "StepOutcome", outputs: "Outputs", step: LossStep) -> "StepOutcome":
        from plugins.recipes.teacher_losses import distillation_loss

        of_teacher = (step.inputs["teacher_B2T"], step.inputs["teacher_scale"])
        divergence = distillation_loss(*outputs[:3], *of_teacher, step.config.loss_rows, step.pairs_of_ranks)
        weight = self.settings(step.config).weight
        return replace(outcome, loss=(1 - weight) * outcome.loss + weight * divergence)


class _Reference(_Teacher):
    config, table, meaning = TeacherConfig, "reference", "Trained with the reference model"

    def check(self, config: "TrainConfig") -> None:
        super().check(config)
        if not find_loss(config).compares_pairs:
            raise ValueError(
                f'reference: the {config.loss} loss compares no pair with others; set loss = "softmax" or "global"'
            )

    def make_inputs(
        self, batch: "Batch", config: "TrainConfig", seed: int, prepared: "StoredFeatures"
    ) -> "dict[str, Tensor]":
        return {"reference_B2T": self._read(batch, prepared)}

    def shift(self, inputs: "Mapping[str, Tensor]", pairs_of_ranks: Sequence[int] | None) -> "tuple[Shift, Shift]":
        from plugins.recipes.teacher_losses import make_shifts

        return make_shifts(inputs["reference_B2T"], pairs_of_ranks)


def _find_model(source: str) -> Any:
    from dataops.home import home
    from tasks.models.find import find_model

    return find_model(source, home())


DISTILL, REFERENCE = _Distill(), _Reference()
