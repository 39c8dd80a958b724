"""A part written piece by piece has the bytes of one written at once."""

import numpy as np
import pyarrow as pa
import pytest

from dataops.kernels.hashes import uid_halves
from dataops.schema import PAIRS, uid
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.engine import part_writer as part_file
from tasks.engine.part_writer import PartWriter


@pytest.mark.parametrize("sizes", [[0], [70_000], [10, 0, 65_526, 65_536, 1], [200_000, 3], [65_536]])
def test_part_writer_writes_the_same_bytes_for_batches_as_for_one_table(tmp_path, sizes):
    rows = sum(sizes)
    urls = [f"http://a.example/{i % 40_000}" for i in range(rows)]
    columns = {"uid": [uid(url, "x") for url in urls], "url": urls, "source_offset": list(range(rows))}
    table = pa.table(
        {**columns, **{name: pa.nulls(rows, PAIRS.field(name).type) for name in PAIRS.names[2:] if name not in columns}}
    )
    table = table.select(PAIRS.names).cast(PAIRS)
    draft = Draft(FolderStore(tmp_path / "store"), "filter", "k")
    file = PartWriter(tmp_path / "part", PAIRS)
    for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        piece = table.slice(start, size)
        file.write(piece, uid_halves(piece["uid"].combine_chunks()).astype(">u8").view(">u4"))
    assert file.put(draft, "a").model_copy(update={"name": "b"}) == draft.put_table("b", table)
    assert part_file.ROW_GROUP == 65_536
