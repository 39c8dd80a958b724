"""The home of the tests."""

from plugins.erasure.tests.homes import copy_home, template

__all__ = ["copy_home", "template"]
