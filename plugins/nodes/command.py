"""`pairmill node`: run a command on the first of several machines, and the ranks of its training on the others."""

import logging
import signal
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveFloat
from cyclopts.validators import Number


def node(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    store: Annotated[str, Parameter(help="Store of the run.")],
    port: Annotated[
        int,
        Parameter(
            help="Port of the first machine, where the others join the training.",
            validator=Number(gte=1, lte=65535),
        ),
    ] = 29400,
    patience: Annotated[
        PositiveFloat, Parameter(help="Seconds without a sign of the first machine after which the others end with 75.")
    ] = 1800.0,
) -> int:
    """Run a command on the first machine of a job; on the others, take part in its training.

    A scheduler starts this on each machine, with its number (PAIRMILL_NODE_INDEX, JOB_COMPLETION_INDEX or
    SKYPILOT_NODE_RANK), the first one's address (PAIRMILL_NODE_0 or SKYPILOT_NODE_IPS) and the job's id
    (PAIRMILL_NODE_JOB or SKYPILOT_TASK_ID).

    Args:
        command: what the first machine runs, after `--`: `pairmill run mine.toml`, with `train.launch = "nodes"`.
    """
    from dataops.process import RETRYABLE
    from dataops.store import open_store
    from plugins.nodes.group import find_group
    from plugins.nodes.training import follow, lead

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    group = find_group(open_store(store), port)
    if group.index == 0:
        return lead(group, command)

    def stop(signum: int, frame: object) -> None:
        signal.signal(signum, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        return follow(group, patience)
    except KeyboardInterrupt:  # the ranks have written a checkpoint
        return RETRYABLE
