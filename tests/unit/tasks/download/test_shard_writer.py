"""Compares the tar of the ordered writer with that of img2dataset's writer."""

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.download.resizers import Previews
from tasks.download.worker import OrderedWriter

UIDS = [f"{number:032x}" for number in range(3)]
SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "status", "error_message", "url", "caption")])


def write(writer, keys, order):
    for row in order:
        meta = dict.fromkeys(SCHEMA.names) | {"key": UIDS[row], "status": "success", "url": "http://img.example/é"}
        writer.write(bytes(300 * row), keys[row], "a caption – with a dash", meta)
    writer.close()


def read(folder, number):
    """Return the members of a tar in its order, and the rows of its table."""
    with tarfile.open(folder / f"{number:05d}.tar") as tar:
        members = [(one.name, tar.extractfile(one).read()) for one in tar if one.isfile()]
    parsed = [(name, json.loads(data) if name.endswith("json") else data) for name, data in members]
    return parsed, pq.ParquetFile(folder / f"{number:05d}.parquet").read().to_pylist()


def test_the_samples_are_those_of_img2dataset_in_the_order_of_the_rows(tmp_path):
    from img2dataset.writer import WebDatasetSampleWriter

    arguments = (True, 5, SCHEMA, "jpg")
    write(WebDatasetSampleWriter(0, str(tmp_path), *arguments), UIDS, (0, 1, 2))
    keys = ["000000", "000001", "000002"]
    for number, order in enumerate([(2, 0, 1), (0, 1, 2)], 1):
        with (tmp_path / "early").open("w+b") as early, (tmp_path / f"{number:05d}.tar").open("wb") as tar:
            place = (number, str(tmp_path))
            ours = OrderedWriter(keys, UIDS, [], Previews(lambda _: None), early, tar, *place, *arguments)
            write(ours, keys, order)
    assert read(tmp_path, 0) == read(tmp_path, 1)
    assert (tmp_path / "00001.tar").read_bytes() == (tmp_path / "00002.tar").read_bytes()
