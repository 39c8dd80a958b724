"""The classes of img2dataset that a download worker uses, loaded without what they drag in and never call.

A worker process starts for every few shards, so its start counts: with torch and wandb in its imports img2dataset takes
3 s of processor time to load, without them 1.3 s.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from tasks.download.fetch.host_pool import HostPool


@contextmanager
def _without_torch() -> Iterator[None]:
    """Let an import of torch fail where it is not loaded yet: webdataset allows it, and only its tar writer is used."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["torch"]


os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network for updates on import
# wandb takes half a second and leaves two temporary folders behind.
sys.modules.setdefault("wandb", ModuleType("wandb"))
with warnings.catch_warnings(), _without_torch():
    warnings.filterwarnings("ignore", "'imghdr' is deprecated", DeprecationWarning)  # img2dataset imports it
    from img2dataset import downloader as _downloader
    from img2dataset.downloader import Downloader, compute_key
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

__all__ = ["Downloader", "Resizer", "WebDatasetSampleWriter", "compute_key", "use_pool"]


@contextmanager
def use_pool(pool: HostPool) -> Iterator[None]:
    """Let Downloader fetch with our threads: it makes its pool by a name of its module, whatever its `thread_count`."""
    theirs = _downloader.ThreadPool
    _downloader.ThreadPool = lambda _: pool  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        _downloader.ThreadPool = theirs  # pyright: ignore[reportAttributeAccessIssue]
