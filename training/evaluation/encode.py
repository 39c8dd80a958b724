"""Images and texts through a model, in batches and in a fixed order: what every evaluation stands on.

Where torchrun started several ranks, they share the batches out, and each gets the features of all.

On the CPU each batch is the work of one thread, and several batches run side by side. That spares the barriers inside every
kernel, and since no sum is ever split over threads, the features have the same bits on any number of them.

Shape suffixes: N images or texts, B batch, R readable images of a batch, L tokens, D embed_dim.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataops.errors import ContractError
from training import distributed
from training.evaluation.pooled_features import PooledFeatures
from training.evaluation.samples import Sample
from training.model.preprocess import decode_rgb

TOKENS_PER_BATCH = 1024
"""Text batches are cut by tokens, not by texts, so that all cost the same; these stay in a core's cache."""
GPU_TOKENS_PER_BATCH = 65_536
IMAGES_PER_THREAD = 32
"""Most images of a batch on the CPU."""

Item = TypeVar("Item")
Made = TypeVar("Made")


class Encoders(Protocol):
    """The part of a CLIP model that evaluation calls. Features are not normalised."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        """(B, C, H, W) -> (B, D)."""
        ...

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """(B, L) -> (B, D), for any L up to the context length: with a causal mask, trailing padding changes nothing."""
        ...


class EvaluatedModel(Protocol):
    """A loaded model: what `training.model.checkpoint.load_model` returns, or anything of the same shape."""

    @property
    def model(self) -> Encoders:
        """The encoders, in evaluation mode."""
        ...

    @property
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Texts to a LongTensor (B, L), zeros after the end-of-text token."""
        ...

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """An RGB picture to a FloatTensor (C, H, W)."""
        ...


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Encoded images: `errors[i]` says why sample i could not be decoded, the features have a row for each that could."""

    samples: list[Sample]
    errors: list[str | None]
    features_RD: Tensor
    pooled_RW: Tensor | None
    """What the tower's last projection was given, as a linear probe needs it; None where the tower is not known."""


def encode_images(
    loaded: EvaluatedModel, samples: Iterable[Sample], batch_size: int, threads: int | None = None
) -> Iterator[ImageBatch]:
    """Unit-norm features of the samples, batch by batch in their order.

    Args:
        batch_size: images at once; on the CPU at most IMAGES_PER_THREAD.
        threads: that decode (and on the CPU encode); None: one a core.

    Raises: ContractError when the model gives features that are not finite.
    """
    device, dtype = get_device_and_dtype(loaded.model)
    on_cpu = device.type == "cpu"
    batches = distributed.take_share(_chunks(samples, min(batch_size, IMAGES_PER_THREAD) if on_cpu else batch_size))

    def pictures(batch: list[Sample]) -> tuple[list[Sample], list[Tensor | str]]:
        return batch, [_picture(sample.image, loaded.preprocess) for sample in batch]

    def encoded(decoded: tuple[list[Sample], list[Tensor | str]]) -> ImageBatch:
        batch, made = decoded
        tensors = [p for p in made if not isinstance(p, str)]
        features_RD, pooled_RW = torch.zeros(0, 0, device=device), None
        if tensors:
            # Convolutions run a third faster over channels that lie together; a transformer does not mind.
            images = torch.stack(tensors).to(device, dtype, memory_format=torch.channels_last)
            with torch.inference_mode():
                features_RD = normalize_features(loaded.model.encode_image(images), "image")
            pooled_RW = pooled.take()
        return ImageBatch(batch, [p if isinstance(p, str) else None for p in made], features_RD, pooled_RW)

    with PooledFeatures(loaded.model) as pooled:
        if on_cpu:
            mine = map_in_order(lambda batch: encoded(pictures(batch)), batches, threads)
        else:
            mine = map(encoded, map_in_order(pictures, batches, threads))
        yield from distributed.merge_shares(mine if distributed.world_size() == 1 else map(_without_pictures, mine))


def encode_texts(loaded: EvaluatedModel, texts: Sequence[str], threads: int | None = None) -> Tensor:
    """Unit-norm features (N, D), in the order of `texts`.

    Equal texts are encoded once, so that they have equal features to the bit. Texts are sorted by their length in
    tokens and cut to the longest of the batch: padding to the context length would be most of the work.

    Raises: ContractError when the model gives features that are not finite; ValueError without texts.
    """
    if not texts:
        raise ValueError("no text to encode")
    unique = list(dict.fromkeys(texts))
    tokens_NL = loaded.tokenizer(unique)
    length_N = _lengths(tokens_NL)
    order = torch.argsort(length_N, stable=True)
    device, _ = get_device_and_dtype(loaded.model)
    on_cpu = device.type == "cpu"

    def encoded(rows: Tensor) -> Tensor:
        longest = int(length_N[rows[-1]])
        with torch.inference_mode():
            return normalize_features(loaded.model.encode_text(tokens_NL[rows, :longest].to(device)), "text")

    batches = _token_batches(order, length_N, TOKENS_PER_BATCH if on_cpu else GPU_TOKENS_PER_BATCH)
    mine = map_in_order(encoded, distributed.take_share(batches), threads if on_cpu else 1)
    made = mine if distributed.world_size() == 1 else (features_BD.cpu() for features_BD in mine)
    sorted_ND = torch.cat(list(distributed.merge_shares(made))).to(device)
    row_of = {unique[i]: row for row, i in enumerate(order.tolist())}
    return sorted_ND[torch.tensor([row_of[text] for text in texts], device=device)]


def map_in_order(work: Callable[[Item], Made], items: Iterable[Item], threads: int | None = None) -> Iterator[Made]:
    """`map(work, items)` by threads that each run torch on one core; results come in order, few at a time are ahead."""
    threads = threads or count_cores()
    stream = iter(items)
    ahead: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, "evaluate", torch.set_num_threads, (1,)) as pool:
        try:
            for item in islice(stream, 2 * threads):
                ahead.append(pool.submit(work, item))
            while ahead:
                made = ahead.popleft().result()
                ahead.extend(pool.submit(work, item) for item in islice(stream, 1))
                yield made
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def count_cores() -> int:
    """Cores that this process may use: its part of them where it has ranks beside it."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def normalize_features(features_BD: Tensor, what: str) -> Tensor:
    """Rows at length 1, in float32.

    Raises: ContractError when a value is not finite: NaN loses every comparison and would pass for a low accuracy.
    """
    features_BD = features_BD.float()
    if not torch.isfinite(features_BD).all():
        raise ContractError(f"the checkpoint gives {what} features that are not finite")
    return F.normalize(features_BD, dim=-1)


def get_device_and_dtype(model: object) -> tuple[torch.device, torch.dtype]:
    """Where a model's weights are, and their type; the CPU and float32 for one without."""
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    first = next(parameters, None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)


def _chunks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    stream = iter(samples)
    while chunk := list(islice(stream, size)):
        yield chunk


def _without_pictures(batch: ImageBatch) -> ImageBatch:
    """As it goes to other ranks."""
    pooled_RW = None if batch.pooled_RW is None else batch.pooled_RW.cpu()
    samples = [replace(sample, image=b"") for sample in batch.samples]
    return ImageBatch(samples, batch.errors, batch.features_RD.cpu(), pooled_RW)


def _lengths(tokens_NL: Tensor) -> Tensor:
    """Tokens of each text up to its last non-zero one (a true zero is never last: the end-of-text token is)."""
    position_L = torch.arange(1, tokens_NL.shape[1] + 1)
    return ((tokens_NL != 0) * position_L).amax(dim=1).clamp(min=1)


def _token_batches(order: Tensor, length_N: Tensor, most_tokens: int) -> Iterator[Tensor]:
    """`order` (shortest first) cut wherever one more text would push the padded batch over `most_tokens`."""
    lengths = length_N[order].tolist()
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or (stop - start + 1) * lengths[stop] > most_tokens:
            yield order[start:stop]
            start = stop


def _picture(data: bytes, preprocess: Callable[[Image.Image], Tensor]) -> Tensor | str:
    """The model's input, or why there is none. White lies under what is transparent, as in training: emoji and logos are
    drawn for a light page, and the hidden pixels of their PNGs are mostly black.
    """
    try:
        image = decode_rgb(data)
    except ValueError as error:
        return str(error)
    except Exception as error:  # a decoder given hostile bytes raises anything; its words may hold an address in memory
        return type(error).__name__
    return preprocess(image)
