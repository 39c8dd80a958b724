"""The executor `nodes`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataops.errors import ConfigError
from dataops.snapshot import Manifest
from dataops.store import Store
from tasks.engine.context import Context, Engine, Finding, OpenWorkers
from tasks.engine.stage import Plan


@dataclass(frozen=True)
class Nodes:
    """The machines of a job, which only train."""

    shares_disk: bool = True

    @contextmanager
    def open(self, workers: int, store: Store) -> Iterator[OpenWorkers]:
        """Raise ConfigError: stages run on the first machine, or on a cluster of another engine."""
        raise ConfigError('execution.engine: nodes is for train.launch only; set "local", or the engine of a cluster')
        yield


def train(executor: Any, planned: Plan[Any], context: Context) -> Manifest:
    """Make the snapshot of a training on all machines of the job."""
    from plugins.nodes.training import train_on_nodes

    return train_on_nodes(planned, context)


def diagnose(execution: Mapping[str, Any]) -> Finding:
    """Check nothing: the machines exist during a job only."""
    return Finding(True, "the machines of a job meet when it runs")


NODES = Engine(lambda execution: Nodes(), train=train, diagnose=diagnose)
