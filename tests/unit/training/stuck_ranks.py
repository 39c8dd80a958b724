"""Steps of two ranks, of which one sleeps for ever: `... -m tests.unit.training.stuck_ranks OUTPUT/job.json`."""

import sys
import time
from pathlib import Path

import torch

from training import distributed
from training.job import StuckWatch

LAST_STEP = 8


def sleep_for_ever() -> None:
    while True:
        time.sleep(1)


def take_steps(output: Path) -> None:
    with StuckWatch(output, seconds=1.0) as watch:
        for step in range(1, LAST_STEP + 2):
            if step > LAST_STEP and distributed.rank() == 1:
                sleep_for_ever()
            distributed.gather_integers([step])
            watch.end_step(step, is_limited=True)


if __name__ == "__main__":
    distributed.join(torch.device("cpu"))
    take_steps(Path(sys.argv[1]).parent)
