"""The table of matches that `pairmill eval --matches` reads."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.errors import SchemaError
from plugins.evaluation_sets.evaluate import read_matches


def test_members_are_read_by_set_and_other_files_refused(tmp_path):
    good, bad, pipe = (tmp_path / name for name in ("good.parquet", "bad.parquet", "pipe.parquet"))
    table = pa.table({"uid": ["a", "b", "c"], "evaluation_set": ["x", "x", "y"], "member": ["1", "1", "2"]})
    pq.write_table(table, good)
    assert read_matches(good) == {"x": {"1"}, "y": {"2"}}
    pq.write_table(table.drop_columns("member"), bad)
    with pytest.raises(SchemaError, match="no column member"):
        read_matches(bad)
    os.mkfifo(pipe)
    with pytest.raises(SchemaError, match="pipe"):
        read_matches(pipe)
