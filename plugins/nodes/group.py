"""The machines of one job, which know each other by the store alone.

A scheduler starts the same command on each, with a number from 0. The first machine writes `nodes/JOB/first.json`
again and again, and `nodes/JOB/training.json` while it trains. A machine that cannot take part writes
`nodes/JOB/refused.json`. All are JSON.
"""

import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.errors import ConfigError
from dataops.store import Store, open_store

FOLDER = "nodes"
FORGOTTEN_SECONDS = 30 * 86400.0
"""Age after which the first machine of any job deletes what an ended one has left."""
INDEX = ("PAIRMILL_NODE_INDEX", "JOB_COMPLETION_INDEX", "SKYPILOT_NODE_RANK")
"""Environment variables with the number of this machine, from 0; the second is Kubernetes'."""
FIRST = ("PAIRMILL_NODE_0", "SKYPILOT_NODE_IPS")
"""Name or IP address of the first machine, on the first line."""
JOB = ("PAIRMILL_NODE_JOB", "SKYPILOT_TASK_ID")
"""What identifies the job: equal on all its machines, and when one is started again; another one for each job."""
STORE, PORT, TOKEN = "PAIRMILL_NODE_STORE", "PAIRMILL_NODE_PORT", "PAIRMILL_NODE_TOKEN"
"""What the first machine's command gets of `pairmill node`."""


class _Object(BaseModel):
    model_config = ConfigDict(frozen=True)

    token: str
    """Random, of one start of the first machine."""


class First(_Object):
    """`first.json`: the first machine works, or has ended."""

    beat: int = 0
    ended: int | None = None
    """Exit code of its command."""


class Training(_Object):
    """`training.json`: what to train."""

    attempt: str
    """Random, of one attempt of the stage."""
    key: str
    """Key of the snapshot."""
    code: str
    """Digest of the code."""
    config: dict[str, Any]
    """`[train]`."""
    seed: int
    upstream: list[tuple[str, str]]
    """Stage and key of the snapshots that the training reads."""
    evaluate: dict[str, Any]
    """`[evaluate]`."""


class Refusal(_Object):
    """`refused.json`: the error of a machine that cannot take part."""

    exit_code: int
    message: str


ObjectT = TypeVar("ObjectT", bound=_Object)
NAMES: dict[type[_Object], str] = {First: "first", Training: "training", Refusal: "refused"}


@dataclass(frozen=True)
class Group:
    """The machines of a job, as one of them sees them."""

    store: Store
    job: str
    index: int
    first: str
    """Host name or IP address of the first machine."""
    port: int
    token: str = ""
    """Of this start, on the first machine."""

    def name(self, kind: type[_Object]) -> str:
        """Return the name of an object in the store."""
        return f"{FOLDER}/{self.job}/{NAMES[kind]}.json"

    def put(self, value: _Object) -> None:
        """Write an object."""
        self.store.put(self.name(type(value)), value.model_dump_json().encode())

    def find(self, kind: type[ObjectT], token: str | None = None) -> ObjectT | None:
        """Return an object, or None if there is none, or it is of another start of the first machine.

        Raises: ConfigError if another version of pairmill wrote it.
        """
        if (data := self.store.find(self.name(kind))) is None:
            return None
        try:
            found = kind.model_validate_json(data)
        except ValidationError as error:
            raise ConfigError(
                f"{self.store.uri}/{self.name(kind)} is of another version of pairmill: use one image on all machines "
                f"({error.error_count()} fields differ)"
            ) from error
        return found if token in (None, found.token) else None

    def delete(self, kind: type[_Object]) -> None:
        """Delete an object."""
        self.store.delete([self.name(kind)])

    def begin(self) -> "Group":
        """Return the group with a new token, for the first machine; delete the objects of earlier starts."""
        limit = time.time() - FORGOTTEN_SECONDS
        old = [entry.name for entry in self.store.entries(FOLDER) if entry.modified < limit]
        self.store.delete([*old, self.name(Training), self.name(Refusal)])
        return replace(self, token=secrets.token_hex(8))

    @property
    def environment(self) -> dict[str, str]:
        """Variables from which `find_group` returns the same."""
        values = {STORE: self.store.uri, PORT: str(self.port), TOKEN: self.token}
        return {**values, INDEX[0]: str(self.index), FIRST[0]: self.first, JOB[0]: self.job}


def find_group(store: Store, port: int, environ: Mapping[str, str] = os.environ) -> Group:
    """Return the machines of the job in whose environment this process runs.

    Raises: ConfigError if the environment does not identify them.
    """
    index, first, job = (_find(names, environ) for names in (INDEX, FIRST, JOB))
    if not index.isdigit():
        raise ConfigError(f"{INDEX[0]} is {index!r}; it must be the number of this machine, from 0")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", first):
        raise ConfigError(f"{FIRST[0]} is {first!r}; it must be the host name or IPv4 address of the first machine")
    return Group(store, re.sub(r"[^A-Za-z0-9._-]", "-", job)[:200], int(index), first, port)


def current_group() -> Group:
    """Return the machines of the job whose first machine runs this process.

    Raises: ConfigError if it was not started by `pairmill node`.
    """
    if TOKEN not in os.environ:
        raise ConfigError(
            'train.launch = "nodes": start the run on each machine by `pairmill node --store URI -- pairmill run CONFIG` '
            "(docs/operate/scale.md)"
        )
    return replace(find_group(open_store(os.environ[STORE]), int(os.environ[PORT])), token=os.environ[TOKEN])


def _find(names: tuple[str, ...], environ: Mapping[str, str]) -> str:
    for name in names:
        if value := environ.get(name, "").strip():
            return value.splitlines()[0].strip()
    raise ConfigError(f"set {names[0]} on each machine; `pairmill node` found none of {', '.join(names)}")
