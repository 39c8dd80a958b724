"""Fixtures of trainings, and losses on several ranks."""

from typing import Any

import pytest

from plugins.recipes.tests.recipe_cases import CASES
from tests.loss_ranks import compute_on_ranks
from tests.trainings import make_job, process_state, sampled_shards, shards, suite  # noqa: F401


@pytest.fixture(scope="session")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Return the result of each case by number of ranks, joined as that of one process."""
    return compute_on_ranks(tmp_path_factory.mktemp("ranks"), CASES)
