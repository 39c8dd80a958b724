"""The seam by which a takedown erases the remaining copies of removed pairs, and searches them as the proof.

Each holder is a place that may keep text or images of pairs: the rows of snapshots, the records and pages of a store, the
home folder, MLflow. It is registered in the group `pairmill.holders`, a cache by whoever keeps it. The plugin `erasure`
brings those of text, and carries out the takedown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from dataops.store import Store
from tasks.engine.context import Context

What = Literal["image", "URL", "caption", "row", "feature"]


@dataclass
class Traces:
    """What to search for."""

    uids: set[str] = field(default_factory=set)
    urls: set[str] = field(default_factory=set)
    captions: set[str] = field(default_factory=set)
    common: set[str] = field(default_factory=set)
    """Those of the captions that other pairs have too."""
    images: dict[str, int] = field(default_factory=dict)
    """Size by sha256 of images as fetched and as in shards, and of previews, in bytes; -1 if it is unknown."""
    scores: set[str] = field(default_factory=set)
    """Ids of the images in the store's cache of scores, in hex."""

    def add(self, other: "Traces") -> None:
        """Add what was collected at another time."""
        for name in ("uids", "urls", "captions", "scores", "common"):
            getattr(self, name).update(getattr(other, name))
        for digest, size in other.images.items():
            self.images[digest] = max(size, self.images.get(digest, -1))


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
    weights_not_read: int = 0
    """Number of files of numbers."""
    proved: int = 0
    """Number of those of the files that were read before, or of which an index proves that they hold no trace."""
    found: list[Found] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the report."""
        return {name: value for name, value in vars(self).items() if name != "found"}


@dataclass(frozen=True)
class Scope:
    """Where a takedown erases and searches."""

    context: Context
    """With the store of the pairs."""
    home: Path
    stores: Sequence[Store]
    """All known stores; a search of the home folder leaves them out."""
    traces: str | None = None
    """Name in the store of the object with the traces, which workers read; None: this process alone searches."""
    clean: frozenset[str] = frozenset()
    """Objects of the store that hold no trace."""


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
