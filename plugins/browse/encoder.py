"""Encode texts and images with a CLIP model in a process of its own: torch is not imported in this one.

The process starts at the first request and ends with this one. It has the environment of a job. Requests are answered in
their order, and a dataset's images come in small batches, so a text or an image of a user waits for one batch at most.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataops.errors import ConfigError, ContractError, JobFailed, PairmillError
from dataops.process import select_job_environment
from dataops.regular_files import open_regular
from tasks.engine.context import worker_pool

if TYPE_CHECKING:
    from training.evaluation.encode import EvaluatedModel

MAX_TEXT = 1000
"""Maximum number of characters of a text that is encoded."""
MAX_SPAN = 256 << 20
"""Maximum size of an image member, in bytes."""
Features = NDArray[np.float32]


class Encoder:
    """A process that encodes with one model.

    Args:
        model: folder or file of the model.
    """

    def __init__(self, model: Path):
        self._model, self._stack = model, ExitStack()
        self._pool = self._stack.enter_context(worker_pool(1, end_seconds=0.1))

    def warm_up(self) -> None:
        """Load the model, so that the first request does not wait for it, which reports the error if there is one."""
        self._submit(encode_text, "a")

    def encode_text(self, text: str) -> Features:
        """Return the unit-norm feature (D,) of a text."""
        return self._ask(encode_text, text[:MAX_TEXT])

    def encode_image(self, data: bytes) -> Features:
        """Return the unit-norm feature (D,) of an image. Raises: ConfigError if it cannot be decoded."""
        return self._ask(encode_image, data)

    def encode_shard(self, shard: Path, spans: Sequence[tuple[int, int]]) -> Features:
        """Return the features (N, D) of images of a shard, each an offset and a size; zeros for unreadable ones."""
        return self._ask(encode_shard, shard, spans)

    def close(self) -> None:
        """End the process."""
        self._stack.close()

    def _submit(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        return self._pool.submit(_run_as_job, function, self._model, *arguments)

    def _ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        try:
            return self._submit(function, *arguments).result()
        except PairmillError:
            raise
        except Exception as error:  # a model or an image may raise anything, and the process may end
            raise JobFailed(f"{self._model.name} cannot encode: {type(error).__name__}: {error}") from error


def _run_as_job(function: Callable[..., Any], *arguments: object) -> Any:
    for name in os.environ.keys() - select_job_environment(os.environ).keys():
        del os.environ[name]
    return function(*arguments)


@cache
def load(model: Path) -> "tuple[EvaluatedModel, str, int]":
    """Return a model, the device that it is on, and the number of its features."""
    from training.evaluation.encode import encode_captions
    from training.job import resolve_device
    from training.model.load import load_any

    device = resolve_device("auto").type
    loaded = load_any(model, device=device)
    return loaded, device, encode_captions(loaded, ["a"], device).shape[1]


def encode_text(model: Path, text: str) -> Features:
    """Return the unit-norm feature (D,) of a text."""
    from training.evaluation.encode import encode_captions

    loaded, device, _ = load(model)
    return encode_captions(loaded, [text], device)[0].float().numpy()


def encode_image(model: Path, data: bytes) -> Features:
    """Return the unit-norm feature (D,) of an image. Raises: ConfigError if it cannot be decoded."""
    feature = _encode_images(model, iter([data]), 1)[0]
    if not feature.any():
        raise ConfigError("the file is not an image that can be decoded; choose another, such as a JPEG or PNG file")
    return feature


def encode_shard(model: Path, shard: Path, spans: Sequence[tuple[int, int]]) -> Features:
    """Return the features (N, D) of images of a shard, each an offset and a size; zeros for unreadable ones.

    Raises: ContractError if a span cannot be one of an image.
    """
    with open_regular(shard) as file:

        def read_members() -> Iterator[bytes]:
            for offset, size in spans:
                if offset < 0 or not 0 <= size <= MAX_SPAN:
                    raise ContractError(f"{shard}: a member of {size} bytes at byte {offset}")
                file.seek(offset)
                yield file.read(size)

        return _encode_images(model, read_members(), len(spans))


def _encode_images(model: Path, images: Iterator[bytes], count: int) -> Features:
    from training.evaluation.encode import encode_shard_images

    loaded, device, dimensions = load(model)
    found = np.zeros((count, dimensions), np.float32)
    for numbers, features in encode_shard_images(loaded, enumerate(images), device):
        found[numbers] = features.float().numpy()
    return found
