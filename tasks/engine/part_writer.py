"""Write a part of any number of rows in bounded memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from dataops.parquet import ROW_GROUP, open_writer
from dataops.snapshot import Draft, Part


class PartWriter:
    """Writes a Parquet part to a local file, one row group at a time, with the fingerprint of its uids.

    The bytes equal those of the whole table written at once (dataops.snapshot.Draft.put_table).
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.schema, self.rows = path, schema, 0
        self._writer = open_writer(path, schema)
        self._waiting: list[pa.Table] = []
        self._sums = np.zeros(4, dtype=object)  # Python integers do not overflow

    def write(self, table: pa.Table, digests: np.ndarray) -> None:
        """Add rows, and their uids as numbers of 4 x 32 bits, the highest first (shape (n, 4))."""
        self._waiting.append(table)
        self.rows += table.num_rows
        self._sums += digests.sum(axis=0, dtype=np.uint64).astype(object)
        if sum(t.num_rows for t in self._waiting) >= ROW_GROUP:
            waiting = pa.concat_tables(self._waiting)
            whole = waiting.num_rows - waiting.num_rows % ROW_GROUP
            self._writer.write_table(waiting.slice(0, whole).combine_chunks(), row_group_size=ROW_GROUP)
            self._waiting = [waiting.slice(whole)]

    def put(self, draft: Draft, name: str) -> Part:
        """Finish the file and put it into the draft as a part."""
        # Not empty_table(): it imports pandas if that is installed (half a second, 40 MB).
        rest = pa.concat_tables([pa.Table.from_batches([], self.schema), *self._waiting]).combine_chunks()
        if rest.num_rows or not self.rows:
            self._writer.write_table(rest)
        self.close()
        a, b, c, d = (int(s) for s in self._sums)
        total = ((a << 96) + (b << 64) + (c << 32) + d) % (1 << 128)
        return draft.put_file(name, self.path, self.rows).model_copy(update={"uid_sum": f"{total:032x}"})

    def close(self) -> None:
        """Close the local file."""
        self._writer.close()
