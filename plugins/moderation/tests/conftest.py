from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """Return a pool of one thread, because a worker process that loads img2dataset takes seconds to start."""
    monkeypatch.setattr("urllib.request._opener", None)  # a shard installs one
    with ThreadPoolExecutor(1) as pool:
        yield pool
