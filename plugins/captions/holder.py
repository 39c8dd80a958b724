"""Delete the answers of a model for removed images."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from tasks.takedown.holders import Erased, Scope, Traces


@dataclass(frozen=True)
class Answers:
    """The answers that a store keeps for `[curate.recaption]`, by the sha256 of the image."""

    order: int = 22

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Delete the answers for removed images."""
        store = scope.context.store
        names = [name for name in store.names("captions") if PurePosixPath(name).stem in traces.images]
        store.delete(names)
        return Erased(objects=len(names))

    def find(self, traces: Traces, scope: Scope) -> None:
        """Return None: the search of the store reads the answers."""


ANSWERS = Answers()
