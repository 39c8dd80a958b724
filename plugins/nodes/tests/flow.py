"""A run that only trains: `python -m plugins.nodes.tests.flow FOLDER`, with the config in FOLDER/train.json."""

import json
import logging
import os
import sys
from pathlib import Path

from dataops.errors import PairmillError
from dataops.snapshot import find_manifest
from dataops.store import FolderStore
from plugins.nodes.training import train_on_nodes
from tasks.engine.context import Context
from tasks.engine.stage import Plan, plan
from tasks.train.stage import TRAIN
from training.config import TrainConfig


def plan_training(folder: Path) -> tuple[Plan, Context]:
    """Return the training of a folder, whose store has the dataset."""
    store = FolderStore(folder / "store")
    upstream = find_manifest(store, "pack", "a" * 16)
    config = TrainConfig.model_validate(json.loads((folder / "train.json").read_text()))
    home = Path(os.environ.get("PAIRMILL_HOME", folder / "home"))
    return plan(TRAIN, config, 0, [upstream], store), Context(store=store, home=home, run_id="run-1")


def main(folder: Path) -> int:
    """Train, and return the exit code that `pairmill run` has."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train_on_nodes(*plan_training(folder), poll=0.2)
    except PairmillError as error:
        print(error)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
