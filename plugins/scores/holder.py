"""Erase the scores and features of removed pairs from the cache of a store (tasks/curate/score.py)."""

from dataclasses import dataclass

from tasks.takedown.holders import Erased, Scope, Traces


@dataclass(frozen=True)
class Scores:
    """The objects below `scores/`."""

    order: int = 21

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Write each object that has scores of removed pairs again, without them."""
        import pyarrow as pa

        from dataops.errors import PairmillError
        from dataops.snapshot import read_table
        from tasks.curate.score import put_scores

        store, erased = scope.context.store, Erased()
        for name in store.names("scores") if traces.scores else ():
            try:
                table = read_table(store, name)
                kept = [identity.hex() not in traces.scores for identity in table["id"].to_pylist()]
                if not all(kept):
                    put_scores(store, name.split("/")[1], table.filter(pa.array(kept)))
                    store.delete([name])
                    erased.objects += 1
            except (PairmillError, ValueError) as error:
                erased.refused[name] = str(error)
        return erased

    def find(self, traces: Traces, scope: Scope) -> None:
        """Return None: a score does not show of what it is."""


SCORES = Scores()
