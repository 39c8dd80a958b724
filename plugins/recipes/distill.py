"""The table `[train.distill]`: a teacher, whose features of the dataset a training reads."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dataops.config import ConfigPath
from dataops.snapshot import Input
from training.hooks import TrainingHook
from training.losses.loss import LossStep
from training.model_config import FrozenModel, Positive

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from plugins.recipes.stored_features import StoredFeatures
    from training.config import TrainConfig
    from training.data.loader import Batch, Dataset
    from training.job import Job
    from training.losses.contrastive import StepOutcome
    from training.model.clip import Outputs

MODEL = "distill.model"
"""Name of the teacher among the files of a job."""


class DistillConfig(FrozenModel):
    """Distillation: the similarities of a batch's images and captions match those of a teacher.

    Its features of all pairs are computed once, before the first step, and kept.
    """

    model: Annotated[ConfigPath, Field(min_length=1)]
    """Folder or file of a model, or a registered one (models:/NAME/VERSION)."""
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the distillation in the loss; the contrastive loss has the rest."""
    scale: Positive | None = None
    """Factor of the teacher's cosines before the softmax; None: that of the teacher's own temperature."""


class _Distill(TrainingHook):
    config, table = DistillConfig, "distill"

    def check(self, config: "TrainConfig") -> None:
        if config.shard_cache_bytes:
            raise ValueError("shard_cache_bytes: the features of distill need all shards before training; set 0")

    def external_inputs(self, config: "TrainConfig") -> list[Input]:
        files = _find_model(self.settings(config).model)
        return [Input(stage=f"train.{MODEL}", key=files.name, digest=files.digest)]

    def find_files(self, config: "TrainConfig") -> dict[str, Path]:
        return {MODEL: _find_model(self.settings(config).model).path}

    def describe_models(self, config: "TrainConfig") -> dict[str, str]:
        return {f"train.{MODEL}": "Distilled from"}

    def prepare(self, job: "Job", dataset: "Dataset", device: "torch.device") -> "StoredFeatures":
        from plugins.recipes.teacher_features import prepare_features

        name = self.settings(job.train).model
        path = job.files.get(MODEL, Path(name))
        return prepare_features(job.features_folder, path, f"train.{MODEL} {name}", dataset, device)

    def make_inputs(
        self, batch: "Batch", config: "TrainConfig", seed: int, prepared: "StoredFeatures"
    ) -> "dict[str, Tensor]":
        import torch

        scale = self.settings(config).scale or math.exp(prepared.logit_scale)
        return {"teacher_B2T": torch.from_numpy(prepared.read(batch.samples)), "teacher_scale": torch.tensor(scale)}

    def change_loss(self, outcome: "StepOutcome", outputs: "Outputs", step: LossStep) -> "StepOutcome":
        from plugins.recipes.distillation_loss import distillation_loss

        of_teacher = (step.inputs["teacher_B2T"], step.inputs["teacher_scale"])
        divergence = distillation_loss(*outputs[:3], *of_teacher, step.config.loss_rows, step.pairs_of_ranks)
        weight = self.settings(step.config).weight
        return replace(outcome, loss=(1 - weight) * outcome.loss + weight * divergence)


def _find_model(source: str) -> Any:
    from dataops.home import home
    from tasks.models.find import find_model

    return find_model(source, home())


DISTILL = _Distill()
