"""The tensors that a step takes: made on the CPU by the loader's threads, and uploaded while the step before computes.

Legend: B pairs of this rank, S side of an image, K kept patches.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from training.config import TrainConfig
from training.data.loader import Batch
from training.loop.initial_model import draw_kept_patches
from training.losses.loss import find_loss
from training.model.packing import PackedTexts, pack_chunks
from training.model.towers import PaddedTexts, pad_chunks
from training.model_config import ModelConfig, TextConfig
from training.step_hooks import used_step_hooks


@dataclass(frozen=True)
class StepInputs:
    """All that a step computes on; nothing else is copied to the device."""

    pixels_BSS3: Tensor
    """Pixels, uint8; the features (B, W) of a frozen image tower that were computed before."""
    texts: list[PackedTexts] | list[PaddedTexts]
    """Captions: `grad_cache` at a time, or all together."""
    kept_BK: Tensor | None
    """Indices of the patches that each image keeps; None without patch dropout."""
    named: Mapping[str, Tensor] = field(default_factory=dict)
    """What the loss and the hooks take, by name."""

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
            {name: function(tensor) for name, tensor in self.named.items()},
        )


@dataclass(frozen=True)
class InputMaker:
    """Makes the inputs of a batch, in the thread that has loaded it.

    Args:
        pin: put them into pinned memory, from which copies to a GPU do not wait; torch keeps and reuses its blocks.
        text_features: maps captions to the features of a frozen text tower, in place of tokens.
    """

    config: TrainConfig
    dimensions: ModelConfig
    seed: int
    total_steps: int
    pin: bool
    text_features: Callable[[Sequence[str]], Tensor] | None = None

    def __call__(self, batch: Batch) -> StepInputs:
        """Return the inputs, on the CPU."""
        config, of_batch = self.config, (self.seed, batch.epoch, batch.samples)
        inputs = StepInputs(
            torch.from_numpy(batch.pixels_BSS3),
            self._pack(batch),
            draw_kept_patches(config, self.dimensions, *of_batch, batch.step / self.total_steps),
            self._name_inputs(batch),
        )
        return inputs.map(Tensor.pin_memory) if self.pin else inputs

    def _name_inputs(self, batch: Batch) -> dict[str, Tensor]:
        named = {} if batch.identities_B2 is None else {"identities_B2": torch.from_numpy(batch.identities_B2)}
        named |= find_loss(self.config).make_inputs(batch, self.config)
        for hook in used_step_hooks(self.config):
            named |= hook.make_inputs(batch, self.config, self.seed)
        return named

    def _pack(self, batch: Batch) -> list[PackedTexts] | list[PaddedTexts]:
        rows = self.config.grad_cache
        if self.text_features is not None:
            return pad_chunks(self.text_features(batch.captions), rows)
        assert batch.tokens_BL is not None
        if not isinstance(self.dimensions.text_cfg, TextConfig):
            return pad_chunks(batch.tokens_BL, rows)
        return pack_chunks(batch.tokens_BL, rows)


def upload_batches(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the same batches with their inputs on the device.

    On a GPU a stream of its own copies them from pinned memory. The host is a step ahead of the
    GPU, so the copy of a batch runs while the step before computes.
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
