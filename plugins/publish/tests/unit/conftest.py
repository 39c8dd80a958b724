"""A small finished model."""

from tests.unit.tasks.models.conftest import finished_model

__all__ = ["finished_model"]
