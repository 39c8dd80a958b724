"""Images and texts through a model, in batches and in a fixed order.

Where there are several ranks, they divide the batches, and each gets the features of all.

On the CPU each batch is the work of one thread, and several batches run side by side. That avoids
the barriers inside every kernel, and since no sum is ever split over threads, the features have the
same bits on any number of them.

Shape suffixes: N images or texts, B batch, R readable images of a batch, L tokens, D embed_dim.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dataops.ahead import take_results
from dataops.errors import TrainingDiverged
from dataops.process import count_cores
from training import distributed
from training.evaluation.samples import Sample
from training.model.preprocess import decode_rgb
from training.progress import Progress


class PooledFeatures:
    """A hook on a tower, active in a `with` block; each thread takes the features of its own last forward pass."""

    def __init__(self, model: object):
        self._visual = getattr(model, "visual", None)
        self._recorded = threading.local()
        self._hooks: list[Any] = []

    def __enter__(self) -> "PooledFeatures":
        projection = getattr(getattr(self._visual, "attnpool", None), "c_proj", None)
        norm, projector = getattr(self._visual, "ln_post", None), getattr(self._visual, "projector", None)
        if isinstance(projection, nn.Module):  # ModifiedResNet: attention pooling ends in its projection
            self._hooks.append(projection.register_forward_pre_hook(self._record_input))
        elif isinstance(projector, nn.Module):  # a pretrained backbone and the projector on it
            self._hooks.append(projector.register_forward_pre_hook(self._record_input))
        elif isinstance(norm, nn.Module):  # ViT: the projection is a bare matrix behind this norm
            self._hooks.append(norm.register_forward_hook(self._record_output))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._record(output)

    def _record_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._record(inputs[0])

    def _record(self, features: Tensor) -> None:
        if features.ndim == 3 and getattr(self._visual, "pool_type", "") == "tok":  # open_clip norms all tokens
            features = features[:, 0]
        self._recorded.features = features.float() if features.ndim == 2 else None

    def take(self) -> Tensor | None:
        """Return (B, W) of this thread's last forward pass; None if the tower is of an unknown kind."""
        features = getattr(self._recorded, "features", None)
        self._recorded.features = None
        return features


TOKENS_PER_BATCH = 1024
"""Tokens of a text batch on the CPU: batches of equal size in tokens cost the same, and these stay in a core's cache."""
GPU_TOKENS_PER_BATCH = 65_536
IMAGES_PER_THREAD = 16
"""Maximum images of a batch on the CPU: with 32, the activations of a convolutional network leave a core's cache."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Encoders(Protocol):
    """The part of a CLIP model that evaluation calls. Features are not normalised."""

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Map (B, C, H, W) to (B, D)."""
        ...

    def encode_text(self, tokens: Tensor, /) -> Tensor:
        """Map (B, L) to (B, D), for any L up to the context length: a causal mask makes trailing padding irrelevant."""
        ...


class EvaluatedModel(Protocol):
    """A loaded model: the result of `training.model.checkpoint.load_model`, or anything of the same shape."""

    @property
    def model(self) -> Encoders:
        """The encoders, in evaluation mode."""
        ...

    @property
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Function of texts to a LongTensor (B, L), zeros after the end-of-text token."""
        ...

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """Function of an RGB image to a FloatTensor (C, H, W)."""
        ...


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Encoded images: `errors[i]` is why sample i could not be decoded; the features have a row for each that could."""

    samples: list[Sample]
    errors: list[str | None]
    features_RD: Tensor
    pooled_RW: Tensor | None
    """Input of the tower's last projection, for a linear probe; None if the tower is of an unknown kind."""


def encode_images(
    loaded: EvaluatedModel, samples: Iterable[Sample], batch_size: int, threads: int | None = None
) -> Iterator[ImageBatch]:
    """Yield unit-norm features of the samples, batch by batch in their order.

    Args:
        batch_size: images per batch; on the CPU at most IMAGES_PER_THREAD.
        threads: threads that decode (and on the CPU encode); None: one a core.

    Raises: TrainingDiverged if features are not finite.
    """
    device, dtype = get_device_and_dtype(loaded.model)
    on_cpu = device.type == "cpu"
    batches = distributed.take_share(_chunks(samples, min(batch_size, IMAGES_PER_THREAD) if on_cpu else batch_size))

    def decode(batch: list[Sample]) -> tuple[list[Sample], list[Tensor | str]]:
        return batch, [_decode(sample.image, loaded.preprocess) for sample in batch]

    def encode(decoded: tuple[list[Sample], list[Tensor | str]]) -> ImageBatch:
        batch, inputs = decoded
        tensors = [x for x in inputs if not isinstance(x, str)]
        features_RD, pooled_RW = torch.zeros(0, 0, device=device), None
        if tensors:
            # Convolutions run faster in channels_last; transformers are as fast.
            images = torch.stack(tensors).to(device, dtype, memory_format=torch.channels_last)
            with torch.inference_mode():
                features_RD = normalize_features(loaded.model.encode_image(images), "image")
            pooled_RW = pooled.take()
        return ImageBatch(batch, [x if isinstance(x, str) else None for x in inputs], features_RD, pooled_RW)

    with PooledFeatures(loaded.model) as pooled:
        if on_cpu:
            share = map_in_order(lambda batch: encode(decode(batch)), batches, threads)
        else:
            share = map(encode, map_in_order(decode, batches, threads))
        if distributed.world_size() == 1:
            yield from share
        else:
            yield from map(_receive, distributed.merge_shares(map(_to_send, share)))


def encode_texts(
    loaded: EvaluatedModel, texts: Sequence[str], threads: int | None = None, most_tokens: int = TOKENS_PER_BATCH
) -> Tensor:
    """Return unit-norm features (N, D), in the order of `texts`.

    Equal texts are encoded once, so that they have equal features to the bit. Texts are sorted by
    their length in tokens and cut to the longest of the batch: padding to the context length would
    be most of the work.

    Args:
        most_tokens: of a batch on the CPU.

    Raises: TrainingDiverged if features are not finite; ValueError without texts.
    """
    if not texts:
        raise ValueError("no text to encode")
    unique = list(dict.fromkeys(texts))
    tokens_NL = loaded.tokenizer(unique)
    length_N = _lengths(tokens_NL)
    order = torch.argsort(length_N, stable=True)
    device, _ = get_device_and_dtype(loaded.model)
    on_cpu = device.type == "cpu"

    def encode(rows: Tensor) -> Tensor:
        longest = int(length_N[rows[-1]])
        with torch.inference_mode():
            return normalize_features(loaded.model.encode_text(tokens_NL[rows, :longest].to(device)), "text")

    batches = _token_batches(order, length_N, most_tokens if on_cpu else GPU_TOKENS_PER_BATCH)
    share = map_in_order(encode, distributed.take_share(batches), threads if on_cpu else 1)
    share = Progress("model", "texts", len(unique)).follow(share, len)
    sorted_ND = torch.cat(list(distributed.merge_shares(features_BD.cpu() for features_BD in share))).to(device)
    row_of = {unique[i]: row for row, i in enumerate(order.tolist())}
    return sorted_ND[torch.tensor([row_of[text] for text in texts], device=device)]


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> Iterator[Result]:
    """Yield `map(work, items)`, by threads that each run torch on one core; at most two items a thread are in progress."""
    threads = threads or count_cores()
    with ThreadPoolExecutor(threads, "evaluate", torch.set_num_threads, (1,)) as pool:
        yield from take_results((pool.submit(work, item) for item in items), 2 * threads - 1, pool)


def normalize_features(features_BD: Tensor, kind: str) -> Tensor:
    """Scale rows to length 1, in float32.

    Args:
        kind: image or text, for the error.

    Raises: TrainingDiverged if a value is not finite: NaN loses every comparison and would pass for a low accuracy.
    """
    features_BD = features_BD.float()
    if not torch.isfinite(features_BD).all():
        raise TrainingDiverged(f"the model gives {kind} features that are not finite")
    return F.normalize(features_BD, dim=-1)


def get_device_and_dtype(model: object) -> tuple[torch.device, torch.dtype]:
    """Return the device and type of a model's weights; the CPU and float32 for a model without weights."""
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    first = next(parameters, None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def _to_send(batch: ImageBatch) -> tuple[Any, ...]:
    """Return a batch without its images and on the CPU, of the types that ranks exchange."""
    samples = [(each.key, each.label, each.captions, each.labels, each.facts) for each in batch.samples]
    pooled_RW = None if batch.pooled_RW is None else batch.pooled_RW.cpu()
    return samples, batch.errors, batch.features_RD.cpu(), pooled_RW


def _receive(sent: tuple[Any, ...]) -> ImageBatch:
    """Return the batch that `_to_send` sent."""
    samples, *others = sent
    return ImageBatch([Sample(key, b"", *values) for key, *values in samples], *others)


def _lengths(tokens_NL: Tensor) -> Tensor:
    """Count the tokens of each text up to its last non-zero one, which is the end-of-text token."""
    position_L = torch.arange(1, tokens_NL.shape[1] + 1)
    return ((tokens_NL != 0) * position_L).amax(dim=1).clamp(min=1)


def _token_batches(order: Tensor, length_N: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Cut `order` (shortest first) wherever one more text would push the padded batch over `max_tokens`."""
    lengths = length_N[order].tolist()
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or (stop - start + 1) * lengths[stop] > max_tokens:
            yield order[start:stop]
            start = stop


def _decode(data: bytes, preprocess: Callable[[Image.Image], Tensor]) -> Tensor | str:
    """Return the model's input, or why there is none.

    Transparent pixels become white, as in training: emoji and logos are drawn for a light page, and
    the hidden pixels of their PNGs are mostly black.
    """
    try:
        image = decode_rgb(data)
    except ValueError as error:
        return str(error)
    except Exception as error:  # hostile bytes can raise anything; the message may hold an address in memory
        return type(error).__name__
    return preprocess(image)


# Features that can be cached: a feature depends on the input and the weights alone, to the bit on one kind of processor.
# Images pass through the model in batches of one fixed size (short ones are padded), captions in such batches of texts
# with the same number of tokens. The rest of a batch, the cut of the shards and the number of threads change nothing.

PADDED_IMAGES = {"cpu": 32, "cuda": 256}
PADDED_TEXTS = 64


def encode_shard_images(
    loaded: EvaluatedModel, images: Iterator[tuple[int, bytes]], device: str, threads: int | None = None
) -> Iterator[tuple[list[int], Tensor]]:
    """Encode the images that can be decoded: yield their numbers and unit-norm features (B, D), float64 on the CPU.

    Args:
        images: number and bytes of each image.

    Raises: TrainingDiverged if features are not finite.
    """
    size = PADDED_IMAGES[torch.device(device).type]

    def decoded(batch: list[tuple[int, bytes]]) -> tuple[list[int], list[Tensor]]:
        inputs = [(number, _decode(data, loaded.preprocess)) for number, data in batch]
        readable = [(number, pixels) for number, pixels in inputs if not isinstance(pixels, str)]
        return [number for number, _ in readable], [pixels for _, pixels in readable]

    def encoded(batch: tuple[list[int], list[Tensor]]) -> tuple[list[int], Tensor]:
        numbers, pixels = batch
        if not pixels:
            return [], torch.zeros(0, 0)
        padding = [torch.zeros_like(pixels[0])] * (size - len(pixels))
        full_BCSS = torch.stack([*pixels, *padding]).to(device, memory_format=torch.channels_last)
        with torch.inference_mode():
            feature_BD = normalize_features(loaded.model.encode_image(full_BCSS)[: len(pixels)], "image")
        return numbers, feature_BD.double().cpu()

    batches = _chunks(images, size)
    if device == "cpu":
        results = map_in_order(lambda batch: encoded(decoded(batch)), batches, threads)
    else:
        results = map(encoded, map_in_order(decoded, batches, threads))
    yield from ((numbers, feature_BD) for numbers, feature_BD in results if numbers)


def encode_captions(loaded: EvaluatedModel, captions: list[str], device: str, threads: int | None = None) -> Tensor:
    """Return unit-norm features (N, D) of the captions, float64 on the CPU; equal captions have equal features.

    Raises: TrainingDiverged if features are not finite.
    """
    unique = list(dict.fromkeys(captions))
    if not unique:
        return torch.zeros(0, 0, dtype=torch.float64)
    token_NL = loaded.tokenizer(unique)
    length_N = _lengths(token_NL)

    def encoded(rows_B: Tensor) -> Tensor:
        full_BL = token_NL[rows_B[:1], : int(length_N[rows_B[0]])].repeat(PADDED_TEXTS, 1)
        full_BL[: len(rows_B)] = token_NL[rows_B, : full_BL.shape[1]]
        with torch.inference_mode():
            return (
                normalize_features(loaded.model.encode_text(full_BL.to(device))[: len(rows_B)], "text").double().cpu()
            )

    by_length = (torch.nonzero(length_N == length)[:, 0] for length in length_N.unique())
    batches = [rows_B for rows in by_length for rows_B in rows.split(PADDED_TEXTS)]
    feature_ND = torch.cat(list(map_in_order(encoded, batches, threads if device == "cpu" else 1)))
    row_of = {unique[i]: row for row, i in enumerate(torch.cat(batches).tolist())}
    return feature_ND[[row_of[caption] for caption in captions]]
