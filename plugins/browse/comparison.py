"""Compare two versions of a dataset: rows that only one has, rows with another image, and why a row is absent."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dataops.errors import ConfigError
from plugins.browse.database import Database, Rows, quote
from plugins.browse.rows import MAX_OFFSET, PAGE_ROWS, fetch_rows
from plugins.browse.views import ROW, Dataset, View

Part = Literal["only_a", "only_b", "changed", "both"]
PARTS: dict[Part, str] = {
    "only_a": "a IS NOT NULL AND b IS NULL",
    "only_b": "a IS NULL AND b IS NOT NULL",
    "changed": "a IS NOT NULL AND b IS NOT NULL AND changed",
    "both": "a IS NOT NULL AND b IS NOT NULL",
}
"""The rows of each part of a comparison. `both` includes those that changed."""


@dataclass(frozen=True)
class Pair:
    """One uid with its row in each of two datasets."""

    a: dict[str, Any] | None
    b: dict[str, Any] | None
    stage: str = ""
    reason: str = ""
    """The stage and reason for which the other dataset lacks the row; empty if it is in both."""


class Comparison:
    """Two datasets of one database, joined by uid when they are first compared."""

    def __init__(self, a: Dataset, b: Dataset, name: str):
        self.a, self.b, self._name, self._lock = a, b, name, threading.Lock()
        self._joined: tuple[Any, Any] | None = None

    @property
    def _database(self) -> Database:
        return self.a.database

    def _join(self) -> str:
        """Write the table of the joined rows, again if a takedown has changed a view; return its name."""
        views = self.a.view(self.a.main), self.b.view(self.b.main)
        with self._lock:
            if self._joined is None or any(one is not two for one, two in zip(self._joined, views, strict=True)):
                sides = [_side(side, view) for side, view in zip("ab", views, strict=True)]
                self._database.run(
                    f"CREATE OR REPLACE TABLE {quote(self._name)} AS SELECT a, b, "
                    f"digest_a IS DISTINCT FROM digest_b AS changed "
                    f"FROM ({sides[0]}) FULL OUTER JOIN ({sides[1]}) USING (uid)"
                )
                self._joined = views
        return quote(self._name)

    def counts(self) -> dict[Part, int]:
        """Return the number of rows of each part."""
        parts = ", ".join(f"count(*) FILTER ({condition}) AS {part}" for part, condition in PARTS.items())
        return self._database.rows(f"SELECT {parts} FROM {self._join()}")[0]  # pyright: ignore[reportReturnType]

    def pairs(self, part: str, offset: int) -> list[Pair]:
        """Return a page of a part, in the order of A, then of B."""
        if part not in PARTS:
            raise ConfigError(f"part {part[:40]!r}: choose one of {', '.join(PARTS)}")
        if not 0 <= offset <= MAX_OFFSET:
            raise ConfigError(f"a page begins at row 0 to {MAX_OFFSET:,}")
        joined = self._join()
        rows = self._database.rows(
            f"SELECT a, b FROM {joined} WHERE {PARTS[part]} ORDER BY a NULLS LAST, b LIMIT {PAGE_ROWS} OFFSET {offset:d}"
        )
        views = self.a.view(self.a.main), self.b.view(self.b.main)
        found = [
            {row[ROW]: row for row in fetch_rows(self._database, view, [r[side] for r in rows if r[side] is not None])}
            for side, view in zip("ab", views, strict=True)
        ]
        lacking = {"only_a": self.b, "only_b": self.a}.get(part)
        side = 0 if part == "only_a" else 1
        uids = [row["uid"] for row in found[side].values()] if lacking else []
        reasons = find_reasons(lacking, uids) if lacking else {}
        pairs = []
        for row in rows:
            a, b = found[0].get(row["a"]), found[1].get(row["b"])
            one = a or b
            if one is not None:
                stage, reason = reasons.get(one["uid"], ("", ""))
                pairs.append(Pair(a, b, stage, reason))
        return pairs


def _side(side: str, view: View) -> str:
    digest = "sha256" if "sha256" in view.columns else "NULL::VARCHAR"
    if view.manifest.stage == "extract":  # from `filter` on, the uids of kept rows are distinct
        return f"SELECT uid, min({ROW}) AS {side}, min({digest}) AS digest_{side} FROM {quote(view.name)} GROUP BY uid"
    return f"SELECT uid, {ROW} AS {side}, {digest} AS digest_{side} FROM {quote(view.name)}"


def find_reasons(dataset: Dataset, uids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the stage and reason by which a dataset dropped pairs; without a row, they are not in its source."""
    found: dict[str, tuple[str, str]] = {}
    for label in reversed([label for label in dataset.labels if label.endswith(".dropped")]):
        view = dataset.view(label)
        if "drop_reason" not in view.columns:
            continue
        rows: Rows = dataset.database.rows(
            f"SELECT uid, any_value(drop_reason) AS reason FROM {quote(view.name)} "
            "WHERE uid IN (SELECT unnest(?::VARCHAR[])) GROUP BY uid",
            [list(uids)],
        )
        for row in rows:
            found.setdefault(row["uid"], (view.manifest.stage, row["reason"] or ""))
    return found
