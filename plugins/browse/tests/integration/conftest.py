"""Servers of the integration tests."""

from tests.integration.conftest import s3_endpoint, s3_environment, s3_server

__all__ = ["s3_endpoint", "s3_environment", "s3_server"]
