"""Erase the remaining copies of removed pairs in all holders, and search all of them as the proof."""

from dataclasses import dataclass, field
from typing import Any

from dataops import plugins
from tasks.takedown.holders import Found, Scope, Searched, Traces

NOT_SEARCHED = (
    "backups, and old versions of objects in a bucket with versioning: delete them with the storage's own tools",
    "source archives and pair lists: nothing is erased there; later runs leave the pairs out",
    "weights of models: those that saw the pairs are named above; train again on the next version",
    "files that you wrote elsewhere with `diff --rows`, `export`, `claim`, `summary`, `publish`, or in the browser",
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
