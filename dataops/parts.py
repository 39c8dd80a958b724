"""The parts of a snapshot, and their table: of a large snapshot, they are a Parquet object beside a small manifest.json.

The table is sorted by name. Its row groups are read one by one, and only those that may have the names in question.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from sys import intern
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dataops.errors import CorruptPart
from dataops.parquet import encode_table, open_parquet
from dataops.storage.base import open_ranges
from dataops.store import Store

MANY_PARTS = 10_000
"""Maximum number of parts that manifest.json lists itself."""
GROUP = 1 << 14
"""Parts of a row group of the table."""

_NAME = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$"
"""Letters, digits, `.`, `_` and `-`, in at most one folder."""


FROZEN = ConfigDict(frozen=True, extra="allow")
"""Of values of a manifest: fields of newer versions are kept (dataops.formats)."""


class Part(BaseModel):
    """One object of a snapshot."""

    model_config = FROZEN

    name: str = Field(pattern=_NAME)
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str
    uid_sum: str | None = None
    """Fingerprint of the uids of its rows (dataops.schema.uid_sum), or None without a column uid."""
    home: str = Field(default="", pattern=r"^([a-z]+/[0-9a-f]{16})?$", exclude_if=lambda home: not home)
    """Name of the snapshot whose object it is; empty: of the snapshot itself."""


_KINDS = {"rows": pa.int64(), "bytes": pa.int64()}
SCHEMA = pa.schema(
    pa.field(name, _KINDS.get(name, pa.string()), nullable=name == "uid_sum") for name in Part.model_fields
)
_PARTS = TypeAdapter(list[Part])
_REMEDY = "`run --verify` remakes the snapshot"


@dataclass(frozen=True)
class PartTable(Sequence[Part]):
    """The parts in the table of a snapshot. Each access reads what it needs; CorruptPart is raised if that is damaged."""

    store: Store = field(repr=False, compare=False)
    path: str
    """Name of the table in the store."""
    table: Part

    def __len__(self) -> int:
        return self.table.rows

    def __iter__(self) -> Iterator[Part]:
        return self.named("")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        group, row = divmod(range(len(self))[index], GROUP)
        with self._open() as file:
            return _make_parts(file.read_row_group(group).slice(row, 1), self.path)[0]

    def named(self, prefix: str, suffix: str = "") -> Iterator[Part]:
        """Yield the parts whose names have this prefix and suffix, by name."""
        with self._open() as file:
            for group in range(file.num_row_groups):
                span = file.metadata.row_group(group).column(0).statistics
                if span is None or not span.has_min_max or span.min[: len(prefix)] <= prefix <= span.max:
                    rows = file.read_row_group(group)
                    names = rows["name"].to_pylist()
                    wanted = [name.startswith(prefix) and name.endswith(suffix) for name in names]
                    yield from _make_parts(rows.filter(pa.array(wanted)), self.path)

    def homes(self) -> dict[str, str]:
        """Return the homes of the parts that have one, by their names; only these two columns are read."""
        with self._open() as file:
            tables = (file.read_row_group(group, ["name", "home"]) for group in range(file.num_row_groups))
            found = (table.filter(pc.field("home") != "") for table in tables)
            return {row["name"]: intern(row["home"]) for table in found for row in table.to_pylist()}

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        where = f"{self.store.uri}/{self.path}"
        if self.store.size(self.path) != self.table.bytes:
            raise CorruptPart(f"{where} is missing, or has another size than its manifest states; {_REMEDY}")
        with open_ranges(self.store, self.path, self.table.bytes) as source, open_parquet(source, where) as file:
            if file.metadata.num_rows != len(self) or not file.schema_arrow.equals(SCHEMA):
                raise CorruptPart(
                    f"{where} is not the table of {len(self):,} parts that its manifest states; {_REMEDY}"
                )
            yield file


def encode_parts(parts: Iterable[Part]) -> tuple[bytes, Part]:
    """Return the bytes of a table of these parts, which are sorted by name, and the part that it is itself."""
    rows = [vars(part) for part in parts]
    data = encode_table(pa.Table.from_pylist(rows, SCHEMA), GROUP).to_pybytes()
    digest = hashlib.sha256(data).hexdigest()
    return data, Part(name=f"manifest-{digest[:16]}.parquet", rows=len(rows), bytes=len(data), sha256=digest)


def _make_parts(rows: pa.Table, where: str) -> list[Part]:
    """Return the parts in rows. Raises: CorruptPart if one is not valid: others may have written the table."""
    try:
        return _PARTS.validate_python(rows.to_pylist())
    except ValidationError as error:
        raise CorruptPart(f"{where} has a part that is not valid ({error.errors()[0]['msg']}); {_REMEDY}") from error
