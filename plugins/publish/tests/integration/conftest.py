"""Servers of the integration tests."""

from tests.integration.conftest import hub, s3_endpoint, s3_environment, s3_server

__all__ = ["hub", "s3_endpoint", "s3_environment", "s3_server"]
