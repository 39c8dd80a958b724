"""Fixtures of the integration tests: a real S3 server on loopback, and a worker that is a thread."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.files.s3_file import s3_client
from tests.kills.seaweed import SeaweedFS
from tests.servers.writable_hub import TOKEN, WritableHub


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """Run a SeaweedFS server whose credentials are KEY_ID and SECRET, with the bucket `mill`."""
    server = SeaweedFS(tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        server.create_bucket("mill")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_endpoint(s3_server: SeaweedFS) -> str:
    """Return the URL of the S3 server."""
    return s3_server.endpoint


@pytest.fixture
def s3_environment(s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Set the variables of the S3 server, and a home for the cache; no client of another test is used."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    s3_client.cache_clear()
    yield
    s3_client.cache_clear()


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """Return a pool of one thread, because a worker process that loads img2dataset takes seconds to start."""
    monkeypatch.setattr("urllib.request._opener", None)  # a shard installs one
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """Run a server that speaks the Hub's protocol and takes uploads; HF_ENDPOINT and HF_TOKEN are its own."""
    with WritableHub({}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield server
