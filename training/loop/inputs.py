"""The tensors that a step takes: made on the CPU by the loader's threads, and uploaded while the step before computes.

Legend: B pairs of this rank, S side of an image, K kept patches.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from training.config import TrainConfig
from training.data.augment import AugmentDraws, draw_augmentation
from training.data.loader import Batch
from training.frozen.text_features import TextFeatures
from training.loop.initial_model import draw_kept_patches
from training.losses.inputs import NO_INPUTS, LossInputs
from training.model.packing import PackedTexts, cut_texts, pack_chunks
from training.model_config import ModelConfig, TextConfig
from training.options.augment import AugmentConfig
from training.options.phases import list_dimensions
from training.teachers.stored_features import StoredFeatures
from training.towers.padded_texts import PaddedTexts, pad_chunks


@dataclass(frozen=True)
class StepInputs:
    """All that a step computes on; nothing else is copied to the device."""

    pixels_BSS3: Tensor
    """Pixels, uint8; the features (B, W) of a frozen image tower that were computed before."""
    texts: list[PackedTexts] | list[PaddedTexts]
    """Captions: `grad_cache` at a time, or all together."""
    kept_BK: Tensor | None
    """Indices of the patches that each image keeps; None without patch dropout."""
    draws: AugmentDraws | None
    """Random numbers of the augmentation; None without one."""
    of_loss: LossInputs = NO_INPUTS
    """What the loss takes beside the features."""

    @property
    def tokens(self) -> int:
        """Number of tokens of all captions."""
        return sum(texts.token_count for texts in self.texts)

    @property
    def padded(self) -> int:
        """Sum of texts x squared length of the longest, to which attention is proportional."""
        return sum(texts.padded_count for texts in self.texts)

    def map(self, function: Callable[[Tensor], Tensor]) -> "StepInputs":
        """Return the results of a function of one tensor for all tensors."""
        return StepInputs(
            function(self.pixels_BSS3),
            [type(texts)(*map(function, texts)) for texts in self.texts],  # pyright: ignore[reportArgumentType]
            None if self.kept_BK is None else function(self.kept_BK),
            None if self.draws is None else AugmentDraws(*map(function, self.draws)),
            self.of_loss.map(function),
        )


@dataclass(frozen=True)
class InputMaker:
    """Makes the inputs of a batch, in the thread that has loaded it.

    Args:
        pin: put them into pinned memory, from which copies to a GPU do not wait; torch keeps and reuses its blocks.
        text_features: of a frozen text tower, in place of tokens.
    """

    config: TrainConfig
    dimensions: ModelConfig
    seed: int
    total_steps: int
    pin: bool
    teacher: StoredFeatures | None = None
    reference: StoredFeatures | None = None
    text_features: TextFeatures | None = None

    @cached_property
    def _dimensions_of_phases(self) -> tuple[ModelConfig, ...]:
        return list_dimensions(self.config.phase, self.dimensions)

    def __call__(self, batch: Batch) -> StepInputs:
        """Return the inputs, on the CPU."""
        config, of_batch = self.config, (self.seed, batch.epoch, batch.samples)
        dimensions = self._dimensions_of_phases[batch.phase]
        inputs = StepInputs(
            torch.from_numpy(batch.pixels_BSS3),
            self._pack(batch, dimensions),
            draw_kept_patches(config, dimensions, *of_batch, batch.step / self.total_steps),
            None if config.augment == AugmentConfig() else draw_augmentation(config.augment, *of_batch),
            self._for_loss(batch),
        )
        return inputs.map(Tensor.pin_memory) if self.pin else inputs

    def _for_loss(self, batch: Batch) -> LossInputs:
        identities_B2 = None if batch.identities_B2 is None else torch.from_numpy(batch.identities_B2)
        inputs = LossInputs(identities_B2)
        if self.config.loss == "global":
            gamma = self.config.global_loss.gamma_at(batch.epoch, self.config.epochs)
            inputs = inputs._replace(samples_B=torch.from_numpy(batch.samples), gamma=torch.tensor(gamma))
        if self.teacher is not None and self.config.distill is not None:
            scale = self.config.distill.scale or math.exp(self.teacher.logit_scale)
            features_B2T = torch.from_numpy(self.teacher.read(batch.samples))
            inputs = inputs._replace(teacher_B2T=features_B2T, teacher_scale=torch.tensor(scale))
        if self.reference is not None:
            inputs = inputs._replace(reference_B2T=torch.from_numpy(self.reference.read(batch.samples)))
        return inputs

    def _pack(self, batch: Batch, dimensions: ModelConfig) -> list[PackedTexts] | list[PaddedTexts]:
        text, rows = dimensions.text_cfg, self.config.grad_cache
        if self.text_features is not None:
            return pad_chunks(self.text_features(batch.captions), rows)
        assert batch.tokens_BL is not None
        if not isinstance(text, TextConfig):
            return pad_chunks(batch.tokens_BL, rows)
        return pack_chunks(cut_texts(batch.tokens_BL, text.context_length, end_id=text.vocab_size - 1), rows)


def upload_batches(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the same batches with their inputs on the device.

    On a GPU a stream of its own copies them from pinned memory. The host is a step ahead of the GPU, so the copy of a
    batch runs while the step before computes.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies, computes = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def upload(tensor: Tensor) -> Tensor:
        uploaded = tensor.to(device, non_blocking=True)
        uploaded.record_stream(computes)  # else its memory would be reused while the step still reads it
        return uploaded

    for batch in batches:
        with torch.cuda.stream(copies):
            inputs = batch.inputs.map(upload)
        computes.wait_stream(copies)
        yield replace(batch, inputs=inputs)
        del inputs
