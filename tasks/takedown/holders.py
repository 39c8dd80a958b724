"""The seam by which a takedown erases the remaining copies of removed pairs, and searches them as the proof.

Each holder is a place that may keep text or images of pairs: the rows of snapshots, the records and pages of a store, the
home folder, MLflow. It is registered in the group `pairmill.holders`, a cache by whoever keeps it. The plugin `erasure`
brings those of text. Without it a takedown makes the next versions of datasets, and `--delete-raw` is an error that names
what to install.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from dataops import plugins
from dataops.store import Store
from tasks.engine.context import Context
from tasks.takedown.traces import Traces

What = Literal["image", "URL", "caption", "row", "feature"]
Finds = Counter[What]


@dataclass(frozen=True)
class Found:
    """Something that a search found."""

    place: str
    """`store URI`, `home`, or `MLflow`."""
    name: str
    finds: Mapping[What, int]
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the report."""
        return {"place": self.place, "name": self.name, "found": dict(self.finds), "remedy": self.remedy}


@dataclass
class Searched:
    """What was searched in one place."""

    place: str
    files: int = 0
    bytes: int = 0
    weights: int = 0
    """Number of files of numbers, which were not read."""
    found: list[Found] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the report."""
        return {"place": self.place, "files": self.files, "bytes": self.bytes, "weights_not_read": self.weights}


@dataclass(frozen=True)
class RecordKind:
    """A kind of JSON object."""

    name: re.Pattern[str]
    """Matches the end of its path, from the beginning of a name."""
    replace: Callable[[Any, Callable[[str], str]], Any] = lambda value, replace: value
    """Returns the record with each text that may quote a pair replaced: those that its schema marks (dataops/facts.py)."""
    encode: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()
    """Returns the bytes of a record that was changed. Raises: ValueError if it is not valid."""

    def redact(self, data: bytes, redact: Callable[[str], str]) -> bytes:
        """Return the record with its texts replaced; the same bytes if none was changed.

        Raises: ValueError if it is not JSON, or not valid after the change.
        """
        before = json.loads(data)
        value = self.replace(before, redact)
        return data if value == before else self.encode(value)


@dataclass(frozen=True)
class Scope:
    """Where a takedown erases and searches."""

    context: Context
    """With the store of the pairs."""
    home: Path
    stores: Sequence[Store]
    """All known stores; a search of the home folder leaves them out."""
    kinds: Sequence[RecordKind] = ()
    """Kinds of records beside those of tasks."""


@dataclass
class Erased:
    """What a holder erased."""

    rows: dict[str, int] = field(default_factory=dict)
    """Number of erased rows by snapshot."""
    objects: int = 0
    files: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """Why something could not be erased, by its name."""


class Holder(Protocol):
    """A place that may keep text or images of pairs."""

    order: int

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Erase all that is left of the pairs with these traces."""
        ...

    def find(self, traces: Traces, scope: Scope) -> "Searched | str | None":
        """Return what a search found, or why the place could not be searched; None if another holder searches it."""
        ...


NOT_SEARCHED = (
    "backups, and old versions of objects in a bucket with versioning: delete them with the storage's own tools",
    "source archives and pair lists: they are read, not written; later runs leave the pairs out",
    "weights of models: those that saw the pairs are named above; train again on the next version",
    "files that you wrote elsewhere with `diff --rows`, `export`, `publish` to a folder, or a download in the browser",
)
"""What no search of pairmill reaches, and what to do there."""


@dataclass
class Proof:
    """What was erased, what was searched, and what was found."""

    rows: dict[str, int] = field(default_factory=dict)
    """Number of erased rows by snapshot."""
    objects: int = 0
    files: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """Why something could not be erased, by its name."""
    searched: list[Searched] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a place could not be searched, by its name."""

    @property
    def found(self) -> list[Found]:
        """The finds of all places."""
        return [found for one in self.searched for found in one.found]

    def is_clean(self) -> bool:
        """Return whether everything was searched and nothing was found."""
        return not (self.found or self.missing or self.refused)

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the report."""
        return {
            "erased": {"rows": self.rows, "objects": self.objects, "files": self.files},
            "not_erased": self.refused,
            "searched": [one.as_json() for one in self.searched],
            "could_not_search": self.missing,
            "out_of_reach": list(NOT_SEARCHED),
            "found": [one.as_json() for one in self.found],
        }


def erase_and_search(scope: Scope, traces: Traces) -> Proof:
    """Erase the remaining copies of the pairs in all holders; then search all of them."""
    proof, holders = Proof(), plugins.load("holders")
    for holder in holders.values():
        erased = holder.erase(traces, scope)
        proof.rows |= erased.rows
        proof.objects, proof.files = proof.objects + erased.objects, proof.files + erased.files
        proof.refused |= erased.refused
    for name, holder in holders.items():
        found = holder.find(traces, scope)
        if isinstance(found, Searched):
            proof.searched.append(found)
        elif found is not None:
            proof.missing[name] = found
    return proof
