"""A real S3 server on loopback, started and stopped by the tests."""

from collections.abc import Iterator

import pytest

from tests.seaweed import KEY_ID, SECRET, SeaweedFS, free_port

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
