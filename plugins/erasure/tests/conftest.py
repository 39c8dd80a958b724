"""The home of the tests, and an S3 server."""

from plugins.erasure.tests.homes import copy_home, template
from tests.integration.conftest import s3_endpoint, s3_environment, s3_server

__all__ = ["copy_home", "s3_endpoint", "s3_environment", "s3_server", "template"]
