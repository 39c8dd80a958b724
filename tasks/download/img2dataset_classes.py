"""Imports the classes of img2dataset that a download worker uses, without torch and wandb, which they never call.

A worker process starts for every few shards. Importing img2dataset takes 3 s of CPU time with torch and wandb, 1.3 s
without.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import cv2

from dataops.kernels.without_package import without_package
from tasks.download.fetch.host_pool import HostPool

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else albumentations looks for updates on import, by network
# wandb takes half a second and leaves two temporary folders.
sys.modules.setdefault("wandb", ModuleType("wandb"))
with warnings.catch_warnings(), without_package("torch"):  # webdataset, for its tar writer, works without it
    warnings.filterwarnings("ignore", "'imghdr' is deprecated", DeprecationWarning)  # img2dataset imports it
    from img2dataset import downloader as _downloader
    from img2dataset import resizer as _resizer
    from img2dataset.downloader import Downloader, compute_key
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

__all__ = ["Downloader", "Resizer", "WebDatasetSampleWriter", "compute_key", "use_decoder", "use_pool"]


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
    """Make Resizer decode with `decode`, which has the arguments and the result of `cv2.imdecode`."""
    _resizer.cv2 = _Cv2(decode)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        _resizer.cv2 = cv2


class _Cv2(ModuleType):
    """OpenCV with another `imdecode`."""

    def __init__(self, imdecode: Callable[[Any, int], Any]):
        super().__init__("cv2")
        self.imdecode = imdecode

    def __getattr__(self, name: str) -> Any:
        return getattr(cv2, name)
