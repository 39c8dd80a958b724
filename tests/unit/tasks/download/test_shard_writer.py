"""Compares the tar of the ordered writer with that of img2dataset's writer."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.download.img2dataset_classes import WebDatasetSampleWriter
from tasks.download.previews import Previews
from tasks.download.shard_writer import MemberHeaders, OrderedWriter, format_json

UIDS = [f"{number:032x}" for number in range(3)]
SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "status", "error_message", "url", "caption")])


def write(writer: Any, keys: list[str], order: tuple[int, ...]) -> None:
    for row in order:
        meta = dict.fromkeys(SCHEMA.names) | {"key": UIDS[row], "status": "success", "url": "http://img.example/é"}
        writer.write(bytes(300 * row), keys[row], "a caption – with a dash", meta)
    writer.close()


def test_the_tar_has_the_bytes_of_img2dataset_in_the_order_of_the_rows(tmp_path: Path) -> None:
    arguments = (True, 5, SCHEMA, "jpg")
    theirs = WebDatasetSampleWriter(0, str(tmp_path), *arguments)
    theirs.tarwriter.mtime = 0
    write(theirs, UIDS, (0, 1, 2))
    keys = ["000000", "000001", "000002"]
    with (tmp_path / "early").open("w+b") as early:
        ours = OrderedWriter(keys, UIDS, [], Previews(lambda _: None), early, 1, str(tmp_path), *arguments)
        write(ours, keys, (2, 0, 1))
    assert (tmp_path / "00001.tar").read_bytes() == (tmp_path / "00000.tar").read_bytes()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1 << 30])
def test_a_header_has_the_bytes_of_tarfile(size: int) -> None:
    info = tarfile.TarInfo("0" * 32 + ".jpg")
    info.size, info.mode, info.uname, info.gname = size, 0o444, "bigdata", "users"
    assert MemberHeaders("bigdata", "users", 0o444).make(info.name, size) == info.tobuf(tarfile.USTAR_FORMAT)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
)


@given(VALUES)
def test_format_json_has_the_text_of_json_with_an_indent(value: Any) -> None:
    assert format_json(value) == json.dumps(value, indent=4)
