"""A real S3 server on loopback, and a worker that is a thread: what several files of tests share."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from tests.servers.seaweed import KEY_ID, SECRET, SeaweedFS, free_port

__all__ = ["KEY_ID", "SECRET", "free_port"]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A SeaweedFS whose credentials are KEY_ID and SECRET, with the bucket `mill`."""
    server = SeaweedFS(tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        server.create_bucket("mill")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_endpoint(s3_server: SeaweedFS) -> str:
    """Its address."""
    return s3_server.endpoint


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """For a context: its worker is a thread of the test, since to start one that loads img2dataset takes seconds."""
    monkeypatch.setattr("urllib.request._opener", None)  # what a shard installs is taken away again
    with ThreadPoolExecutor(1) as pool:
        yield pool
