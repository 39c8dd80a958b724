"""Erase the traces of removed pairs everywhere, then search everything that pairmill wrote, as the proof."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataops.store import Store
from tasks.engine.context import Context
from tasks.lineage.graph import Lineage
from tasks.takedown.erase_rows import erase_rows
from tasks.takedown.erase_texts import erase_in_home, erase_in_store, search_home, search_store
from tasks.takedown.mlflow_runs import search_or_explain
from tasks.takedown.places import RecordKind
from tasks.takedown.scan import Found, Scanner, Searched
from tasks.takedown.traces import Traces

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


def erase_and_search(
    context: Context, home: Path, traces: Traces, stores: Sequence[Store], kinds: Sequence[RecordKind] = ()
) -> Proof:
    """Erase what is left of the pairs in the context's store, the home folder and MLflow; then search all of them.

    Args:
        stores: all known stores; a search of the home folder leaves them out.
        kinds: kinds of records beside those of tasks.
    """
    store, proof = context.store, Proof()
    proof.rows, proof.refused = erase_rows(Lineage(store), context, traces.uids)
    scanner = Scanner(traces, kinds)
    proof.objects, refused = erase_in_store(Lineage(store), scanner)
    proof.refused |= refused
    proof.files, refused = erase_in_home(home, scanner, stores)
    proof.refused |= refused
    in_mlflow = search_or_explain(scanner, erase=True)
    if isinstance(in_mlflow, Searched):
        in_mlflow = search_or_explain(scanner, erase=False)
    lineage = Lineage(store)
    proof.searched = [search_store(store, scanner, lineage), search_home(home, scanner, stores)]
    if isinstance(in_mlflow, Searched):
        proof.searched.append(in_mlflow)
    elif any(name.stage == "register" for name in lineage.manifests):  # else no page of this store is in MLflow
        proof.missing["MLflow"] = in_mlflow
    return proof
