"""Read takedown requests from a file, record them in the store, and load them for later runs.

    takedowns/<digest>.json           the targets to remove; the digest is over them
    takedowns/<digest>.report.json    what was removed, and the proof; written again by each `pairmill takedown`
    takedowns/<digest>.traces.json    uids, and digests of images, to search for
    takedowns/<digest>.log.json       who asked, when, and what was done by when (plugins/erasure/request_log.py)

`pack` applies all requests of its store: their digests are inputs of its snapshots, so a new
request gives new keys. `download` does not fetch what matches a request; requests do not change its
key, as robots.txt does not.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.config import FrozenModel
from dataops.digest import canonical_json, text_sha256
from dataops.errors import CorruptPart
from dataops.formatting import format_now
from dataops.snapshot import Input
from dataops.store import Entry, Store
from dataops.trace.targets import Target, parse_target

FOLDER = "takedowns"
STAGE = "takedown"
"""Stage of an `Input` that is a request."""
_NAME = re.compile(rf"{FOLDER}/([0-9a-f]{{16}})\.json")


class Request(FrozenModel):
    """takedowns/<digest>.json."""

    targets: tuple[str, ...]
    """Sorted targets as text (str of dataops.trace.targets.Target)."""
    reason: str = ""
    requested_at: str

    @property
    def digest(self) -> str:
        """16 hex digits over the targets, so that the same request twice is one."""
        return text_sha256(canonical_json(list(self.targets)))[:16]

    @property
    def name(self) -> str:
        """Name in the store."""
        return f"{FOLDER}/{self.digest}.json"

    def parsed(self) -> list[Target]:
        """Return the targets. Raises: ValueError if another program wrote the record."""
        return [parse_target(text) for text in self.targets]


class Report(BaseModel):
    """The fields of takedowns/<digest>.report.json that later commands read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    uids: tuple[str, ...] = ()
    """Removed pairs."""
    versions: dict[str, str] = {}
    """Keys of dataset versions that held removed pairs, with those of their next versions."""
    unmatched: tuple[str, ...] | None = None
    """Targets that matched no pair and no raw image in any call; None if there was no call yet."""
    datasets: list[dict[str, object]] = []
    """The datasets that held removed pairs, for the next call of the request."""


def report_name(digest: str) -> str:
    """Return the name in the store of a request's report."""
    return f"{FOLDER}/{digest}.report.json"


def load_erased(store: Store) -> tuple[Target, ...]:
    """Return the pairs of all requests whose URLs may be erased from rows, by uid.

    Raises: CorruptPart if the traces of a request are damaged.
    """
    uids: set[str] = set()
    for name in store.names(FOLDER):
        if name.endswith(".traces.json"):
            try:
                uids.update(json.loads(store.read(name))["uids"])
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptPart(f"{store.uri}/{name} holds no traces; delete it, and repeat the takedown") from error
    return tuple(Target("uid", uid) for uid in sorted(uids))


def list_reports(store: Store) -> list[Entry]:
    """Return the reports of a store, sorted by name."""
    return [entry for entry in store.entries(FOLDER) if entry.name.endswith(".report.json")]


def load_report(store: Store, name: str) -> Report:
    """Return a report by its name in the store; an empty one if there is none.

    Raises: CorruptPart if it is damaged.
    """
    if (data := store.find(name)) is None:
        return Report()
    try:
        return Report.model_validate_json(data)
    except ValidationError as error:
        raise CorruptPart(
            f"{store.uri}/{name} is not a report of a takedown; delete it, and repeat the takedown"
        ) from error


def make_request(targets: Sequence[Target], reason: str) -> Request:
    """Return a request that is made now."""
    named = tuple(sorted({str(target) for target in targets}))
    return Request(targets=named, reason=reason, requested_at=format_now())


def record_request(store: Store, request: Request) -> bool:
    """Record a request. Return False if the store has it already."""
    return store.create(request.name, request.model_dump_json(indent=2).encode())


def list_requests(store: Store) -> list[Input]:
    """Return all requests of a store, sorted, as inputs of a snapshot."""
    digests = [found[1] for name in store.names(FOLDER) if (found := _NAME.fullmatch(name))]
    return [Input(stage=STAGE, key=digest, digest=digest) for digest in digests]


def select_requests(inputs: Iterable[Input]) -> list[Input]:
    """Return the requests among the inputs of a snapshot."""
    return [input_ for input_ in inputs if input_.stage == STAGE]


def load_targets(store: Store, requests: Sequence[Input]) -> tuple[Target, ...]:
    """Return the targets of requests, each once.

    Raises: CorruptPart if a record is damaged: nothing may be made before its targets are known.
    """
    return tuple(dict.fromkeys(target for request in requests for target in _load_request(store, request.key)))


@lru_cache(maxsize=1 << 12)
def _load_request(store: Store, digest: str) -> tuple[Target, ...]:
    """Return the targets of a request, which its name determines; each process reads it once."""
    name = f"{FOLDER}/{digest}.json"
    try:
        read = Request.model_validate_json(store.read(name))
        targets = read.parsed()
    except (ValidationError, ValueError) as error:
        raise CorruptPart(
            f"{store.uri}/{name} is no takedown request ({error}); write it again with `pairmill takedown`"
        ) from error
    if read.digest != digest:
        raise CorruptPart(
            f"{store.uri}/{name} has other targets than those of its name; write it again with `pairmill takedown`"
        )
    return tuple(targets)
