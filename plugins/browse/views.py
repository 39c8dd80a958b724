"""A dataset and the stages before it as views of DuckDB: the kept and the dropped rows of each stage.

A row has a number in its view: the number of its part, times 2^32, plus its position in the part. Rows that a takedown
request of the store matches are in no view; the requests are read again after ten seconds.
"""

import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataops.errors import ConfigError, PairmillError
from dataops.snapshot import Manifest, load_ancestors
from dataops.stages import PAIR_STAGES
from dataops.store import FolderStore, Store
from dataops.trace.requests import list_reports, list_requests, load_report, load_targets
from dataops.trace.targets import COLUMNS, Target, matching_rows
from plugins.browse.database import Database, quote, quote_text

ROW = "row_number"
"""Name of the column with the row's number."""
SIDES = {"kept": "part-", "dropped": "dropped-"}
REFRESH_SECONDS = 10.0
PART_SHIFT = 32
COPIES_AT_ONCE = 8
_GLOB = re.compile(r"[*?\[]")
_HIDDEN_AT_ONCE = 100
"""Number of perceptual hashes that one query compares."""


@dataclass(frozen=True)
class View:
    """The kept or the dropped rows of one snapshot."""

    manifest: Manifest
    side: str
    name: str
    """Name of the view in the database."""
    columns: dict[str, str] = field(hash=False)
    """Types by name, without ROW."""
    paths: tuple[Path, ...] = ()
    """Local files of its parts."""
    hides_rows: bool = False
    """Whether a takedown request matches some of its rows, which are in the table NAME_hidden."""

    @property
    def label(self) -> str:
        """`pack.kept`, as URLs name it."""
        return f"{self.manifest.stage}.{self.side}"


class Takedowns:
    """The targets of all takedown requests of a store, and the uids that were removed."""

    def __init__(self, store: Store, refresh_seconds: float):
        self._store, self._read_at, self._lock = store, float("-inf"), threading.Lock()
        self._refresh_seconds = refresh_seconds
        self._targets: tuple[Target, ...] = ()

    def targets(self) -> tuple[Target, ...]:
        """Return the targets as of `refresh_seconds` ago or less.

        Raises: CorruptPart if a request is damaged: nothing may be shown before its targets are known.
        """
        with self._lock:
            if time.monotonic() - self._read_at > self._refresh_seconds:
                found = dict.fromkeys(load_targets(self._store, list_requests(self._store)))
                for entry in list_reports(self._store):
                    found |= dict.fromkeys(Target("uid", uid) for uid in load_report(self._store, entry.name).uids)
                self._targets, self._read_at = tuple(found), time.monotonic()
            return self._targets


class Dataset:
    """A snapshot over pairs and its ancestors, as views that are made when they are first used.

    Args:
        copies: folder for local copies of the parts of a remote store.
        refresh_seconds: time after which the takedown requests are read again.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        database: Database,
        copies: Path,
        refresh_seconds: float = REFRESH_SECONDS,
    ):
        self.manifest, self.store, self.database = manifest, store, database
        self.stages = {
            stage: found
            for stage, found in load_ancestors(store, manifest).items()
            if stage in PAIR_STAGES and PAIR_STAGES.index(stage) <= PAIR_STAGES.index(manifest.stage)
        }
        self._copies, self._lock = copies, threading.RLock()
        self._takedowns = Takedowns(store, refresh_seconds)
        self._views: dict[str, tuple[tuple[Target, ...], View]] = {}

    @property
    def labels(self) -> list[str]:
        """Labels of the views, from the first stage to the last."""
        order = sorted(self.stages, key=PAIR_STAGES.index)
        return [f"{stage}.{side}" for stage in order for side in SIDES]

    @property
    def main(self) -> str:
        """Label of the rows of the dataset itself."""
        return f"{self.manifest.stage}.kept"

    def view(self, label: str) -> View:
        """Return a view. Raises: ConfigError if there is none of this label."""
        if label not in self.labels:
            raise ConfigError(f"there are no rows {label[:40]!r}; choose one of {', '.join(self.labels)}")
        targets = self._takedowns.targets()
        with self._lock:
            known = self._views.get(label)
            if known is None or known[0] != targets:
                known = (targets, self._make_view(label, targets))
                self._views[label] = known
            return known[1]

    def _make_view(self, label: str, targets: Sequence[Target]) -> View:
        stage, side = label.split(".")
        manifest, name = self.stages[stage], f"{stage}_{side}"
        paths = self._paths(manifest, SIDES[side])
        if paths:
            files = ", ".join(quote_text(str(path)) for path in paths)
            self.database.run(
                f"CREATE OR REPLACE VIEW {quote(name + '_all')} AS SELECT * EXCLUDE (file_row_number), "
                f"(file_index::BIGINT << {PART_SHIFT}) + file_row_number AS {ROW} "
                f"FROM read_parquet([{files}], file_row_number = true)"
            )
        else:
            empty = ", ".join(f"NULL::VARCHAR AS {quote(column)}" for column in ("uid", "url", "caption"))
            self.database.run(
                f"CREATE OR REPLACE VIEW {quote(name + '_all')} AS SELECT {empty}, 0::BIGINT AS {ROW} LIMIT 0"
            )
        columns = self.database.columns(f"{name}_all")
        columns.pop(ROW)
        hidden = self._hide(name, columns, targets)
        condition = f"WHERE {shown(name)}" if hidden else ""
        self.database.run(f"CREATE OR REPLACE VIEW {quote(name)} AS SELECT * FROM {quote(name + '_all')} {condition}")
        return View(manifest, side, name, columns, tuple(paths), hidden)

    def _paths(self, manifest: Manifest, prefix: str) -> list[Path]:
        """Return local files of the parts with rows, by name; those of a remote store are copied at first use."""
        parts = [manifest.path(part.name) for part in manifest.named(prefix, ".parquet")]
        if isinstance(self.store, FolderStore):
            found = self.store.locals(parts)
            if not any(_GLOB.search(str(path)) for path in found):
                return [path.resolve() for path in found]
        folder = self._copies / f"{manifest.stage}-{manifest.key}"
        folder.mkdir(parents=True, exist_ok=True)
        if self.store.is_remote:
            with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
                return list(pool.map(lambda part: self.store.local(part, keep_in=folder), parts))
        return [_copy(self.store, part, folder) for part in parts]

    def _hide(self, name: str, columns: dict[str, str], targets: Sequence[Target]) -> bool:
        """Write the numbers of the rows that a target matches into a table; return whether there are any.

        DuckDB finds a superset of them, of which `matching_rows` decides.
        """
        if not targets or "uid" not in columns:
            return False
        present = [column for column in COLUMNS if column in columns]
        conditions = [c for c in _superset(targets, present) if c[0]]
        found: dict[int, dict[str, Any]] = {}
        for sql, parameters in conditions:
            rows = self.database.rows(
                f"SELECT {ROW}, {', '.join(map(quote, present))} FROM {quote(name + '_all')} WHERE {sql}", parameters
            )
            found |= {row[ROW]: row for row in rows}
        rows = list(found.values())
        table = pa.table({column: pa.array([row[column] for row in rows], pa.string()) for column in present})
        numbers = [row[ROW] for row, matches in zip(rows, matching_rows(table, targets), strict=True) if matches]
        self.database.run(
            f"CREATE OR REPLACE TABLE {quote(name + '_hidden')} AS SELECT unnest(?::BIGINT[]) AS {ROW}", [numbers]
        )
        return bool(numbers)


def shown(name: str) -> str:
    """Return the condition that a row is none of those that a view hides."""
    return f"{ROW} NOT IN (SELECT {ROW} FROM {quote(name + '_hidden')})"


def _superset(targets: Sequence[Target], columns: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """Return conditions of which each row that a target matches fulfils at least one."""
    found: list[tuple[str, list[Any]]] = []
    for kind in ("uid", "url", "sha256"):
        values = [value for target in targets if target.kind == kind for value in target.spellings]
        for column in ("url", "page_url") if kind == "url" else (kind,):
            if values and column in columns:
                found.append((f"{quote(column)} IN (SELECT unnest(?::VARCHAR[]))", [values]))
    domains = [re.escape(target.value) for target in targets if target.kind == "domain"]
    for column in ("url", "page_url"):
        if domains and column in columns:
            found.append((f"regexp_matches({quote(column)}, ?)", ["|".join(domains)]))
    hashes = [target for target in targets if target.kind == "phash"]
    for start in range(0, len(hashes) if "phash" in columns else 0, _HIDDEN_AT_ONCE):
        some = hashes[start : start + _HIDDEN_AT_ONCE]
        one = "bit_count(xor(try_cast('0x' || phash AS UBIGINT), ?::UBIGINT)) <= ?"
        parameters = [value for target in some for value in (int(target.value, 16), target.bits)]
        found.append((" OR ".join([one] * len(some)), parameters))
    return found


def _copy(store: Store, name: str, folder: Path) -> Path:
    path = folder / name.rpartition("/")[2]
    if not path.exists():
        try:
            store.download(name, path)
        except PairmillError:
            path.unlink(missing_ok=True)
            raise
    return path
