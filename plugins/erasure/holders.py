"""The places that may keep text or images of removed pairs, in the order in which they are erased and searched."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.takedown.holders import Erased, Scope, Searched, Traces

if TYPE_CHECKING:
    from plugins.erasure.batches import Place
    from plugins.erasure.scan import Scanner


def _scanner(traces: Traces) -> "Scanner":
    from plugins.erasure.scan import Scanner

    return Scanner(traces)


def _place(scope: Scope) -> "Place | None":
    from plugins.erasure.batches import Place

    return Place(scope.traces) if scope.traces else None


@dataclass(frozen=True)
class Rows:
    """The rows of snapshots that stay."""

    order: int = 10

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Blank the columns that hold personal text."""
        from plugins.erasure.erase_rows import erase_rows
        from tasks.lineage.graph import Lineage

        rows, refused = erase_rows(Lineage(scope.context.store), scope.context, traces.uids, _place(scope), scope.clean)
        return Erased(rows=rows, refused=refused)

    def find(self, traces: Traces, scope: Scope) -> None:
        """Return None: the search of the store reads the rows."""


@dataclass(frozen=True)
class StoreObjects:
    """Records and pages of a store."""

    order: int = 20

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite what quotes the pairs."""
        from plugins.erasure.batches import Sought
        from plugins.erasure.erase_texts import erase_in_store
        from tasks.lineage.graph import Lineage

        context = scope.context
        objects, refused = erase_in_store(Lineage(context.store), context, Sought(traces), _place(scope))
        return Erased(objects=objects, refused=refused)

    def find(self, traces: Traces, scope: Scope) -> Searched:
        """Search all objects of the store, by the workers of the executor if they are large."""
        from plugins.erasure.batches import Sought
        from plugins.erasure.erase_texts import search_store
        from tasks.lineage.graph import Lineage

        return search_store(scope.context, Sought(traces), Lineage(scope.context.store), _place(scope), scope.clean)


@dataclass(frozen=True)
class Home:
    """Files that pairmill wrote under the home folder."""

    order: int = 30

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite pages and logs that quote the pairs, and delete copies of the store's files that hold them."""
        from plugins.erasure.erase_texts import erase_in_home

        files, refused = erase_in_home(scope.home, _scanner(traces), scope.stores)
        return Erased(files=files, refused=refused)

    def find(self, traces: Traces, scope: Scope) -> Searched:
        """Search all these files."""
        from plugins.erasure.erase_texts import search_home

        return search_home(scope.home, _scanner(traces), scope.stores)


@dataclass(frozen=True)
class MLflow:
    """Artefacts, tags and descriptions of runs and versions."""

    order: int = 40

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite artefacts and descriptions that quote the pairs; an error is that of the search."""
        from plugins.erasure.mlflow_runs import search_or_explain

        search_or_explain(_scanner(traces), erase=True)
        return Erased()

    def find(self, traces: Traces, scope: Scope) -> Searched | str | None:
        """Search all runs that pairmill wrote. Without a server, None if no model of the store is registered."""
        from plugins.erasure.mlflow_runs import search_or_explain
        from tasks.lineage.graph import Lineage

        found = search_or_explain(_scanner(traces), erase=False)
        if isinstance(found, str):
            registered = any(name.stage == "register" for name in Lineage(scope.context.store).manifests)
            return found if registered else None
        return found


ROWS, STORE, HOME, MLFLOW = Rows(), StoreObjects(), Home(), MLflow()
