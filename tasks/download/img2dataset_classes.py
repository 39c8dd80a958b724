"""Imports the classes of img2dataset that a download worker uses, without torch, wandb and SciPy, which they never call.

Importing img2dataset takes 3 s of CPU time with them, and 0.5 s without. Its main module is not imported either,
since that loads pandas, fire and the code that distributes shards.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import cv2

from dataops.kernels.without_package import without_package
from tasks.download.host_turns import HostPool

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else albumentations looks for updates on import, by network


@contextmanager
def _empty_module(name: str, **attributes: object) -> Iterator[None]:
    """Let imports find an empty module inside the `with`, unless the real one is loaded."""
    module = ModuleType(name)
    module.__dict__.update(attributes)
    is_ours = sys.modules.setdefault(name, module) is module
    try:
        yield
    finally:
        if is_ours:  # the real one is imported where it is used: by train.wandb
            del sys.modules[name]


@contextmanager
def _forgotten(package: str) -> Iterator[None]:
    """Let the next import after the `with` load a package anew that was first loaded inside of it."""
    is_new = package not in sys.modules
    yield
    for name in [name for name in sys.modules if is_new and name.partition(".")[0] == package]:
        del sys.modules[name]


# wandb takes half a second and leaves two temporary folders. webdataset, for its tar writer, works without torch;
# albumentations loads huggingface_hub to share transforms, and SciPy for noise and blur.
with (
    warnings.catch_warnings(),
    _forgotten("webdataset"),  # without torch it has an empty DataLoader, which others must not get
    without_package("torch"),
    without_package("huggingface_hub"),
    _empty_module("wandb"),
    _empty_module("scipy", special=None),
    _empty_module("scipy.ndimage", gaussian_filter=None),
    _empty_module("img2dataset.main", main=None, download=None),
):
    warnings.filterwarnings("ignore", "'imghdr' is deprecated", DeprecationWarning)  # img2dataset imports it
    import albumentations
    from img2dataset import downloader as _downloader
    from img2dataset import resizer as _resizer
    from img2dataset.downloader import Downloader, compute_key
    from img2dataset.resizer import Resizer
    from img2dataset.writer import BufferedParquetWriter

__all__ = ["BufferedParquetWriter", "Downloader", "Resizer", "compute_key", "use_decoder", "use_pool"]


@contextmanager
def use_pool(pool: HostPool) -> Iterator[None]:
    """Make Downloader fetch with the threads of `pool`, instead of those that it would start itself."""
    original = _downloader.ThreadPool
    _downloader.ThreadPool = lambda _: pool  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        _downloader.ThreadPool = original  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def use_decoder(decode: Callable[[Any, int], Any]) -> Iterator[None]:
    """Make Resizer decode with `decode`, which has the arguments and the result of `cv2.imdecode`.

    Resizer also constructs each transform only once.
    """
    original = _resizer.A
    _resizer.cv2, _resizer.A = _Cv2(decode), _transforms  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        _resizer.cv2, _resizer.A = cv2, original


class _Cv2(ModuleType):
    """OpenCV with another `imdecode`."""

    def __init__(self, imdecode: Callable[[Any, int], Any]):
        super().__init__("cv2")
        self.imdecode = imdecode

    def __getattr__(self, name: str) -> Any:
        return getattr(cv2, name)


class _Transforms:
    """The transforms of albumentations, each kept: validating its arguments takes longer than resizing an image.

    The transforms that Resizer uses draw no random numbers, so they give the same pixels at each use.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._construct, name)

    def _construct(self, name: str, **options: object) -> Any:
        key = f"{name} {options}"
        if key not in self._kept:
            self._kept[key] = getattr(albumentations, name)(**options)
        return self._kept[key]


_transforms = _Transforms()
