"""The losses of one step on one, two and three ranks."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from dataops.home import CHECKOUT
from tests.unit.training.losses.cases import CASES, compute, join_ranks

Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="session")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Results]:
    """Return the result of each case by number of ranks, joined as that of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.unit.training.losses.cases", str(folder)]
    subprocess.run(command, check=True, cwd=CHECKOUT, timeout=120)
    found = {1: {name: compute(settings) for name, settings in CASES.items()}}
    for ranks in (2, 3):
        results = [torch.load(folder / f"{ranks}-{rank}.pt", weights_only=True) for rank in range(ranks)]
        found[ranks] = {name: join_ranks([result[name] for result in results]) for name in CASES}
    return found
