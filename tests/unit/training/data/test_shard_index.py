"""The columns of a shard that pack wrote equal what general code reads, and anything else is left to general code."""

import re
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.errors import ContractError
from dataops.home import CHECKOUT
from dataops.regular_files import read_text
from dataops.shards.tar import ShardWriter, format_index, join_index_lines
from training.data import shard_index
from training.data.shard_files import MAX_OPEN, ShardFiles

index_shard = partial(shard_index.index_shard, few=1)  # by columns, though the shards are small
ROWS = [
    {"uid": "a" * 32, "sampling_probability": 0.25},
    {"uid": "b" * 32, "sampling_probability": 1.0},
    {"uid": None, "sampling_probability": 0.0},
    {"uid": "d" * 32, "sampling_probability": None},
]
JSONS = [
    b'{"uid":"a","sampling_probability":0.25}',
    b'{"uid":"b","sampling_probability":2}',
    b"{}",
    b'{"sampling_probability":0.5}',
]


def write(folder, extensions=("jpg", "txt", "json"), keys="0123"):
    """Write a shard of four samples, its index and its rows."""
    index, path = [], folder / "0.tar"
    with path.open("wb") as file:
        writer = ShardWriter(file)
        for number, key in enumerate(keys):
            contents = {"txt": b"a thing", "json": JSONS[number]}
            index.append(writer.write(f"k_{key}", {ext: contents.get(ext, b"?" * (number + 1)) for ext in extensions}))
        writer.close()
    path.with_suffix(".idx").write_text(format_index(index))
    rows = [{"key": f"k_{key}", **row} for key, row in zip(keys, ROWS, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
    return ShardFiles([path], {})


def content(samples):
    arrays = (samples.spans, samples.probabilities, samples.identities)
    return samples.keys, *(array.tolist() for array in arrays), samples.faces, samples.skipped


@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize(
    "extensions", [("jpg", "txt", "json"), ("json", "seg.png", "webp", "txt"), ("txt", "PNG"), ("jpg", "txt", "cls")]
)
def test_columns_equal_what_general_code_reads(tmp_path, extensions, arrives):
    files = write(tmp_path, extensions)
    if arrives:
        files = ShardFiles(files.paths, {"0.tar": files.paths[0].stat().st_size})
        files.paths[0].unlink()
    found = shard_index._index_columns(files, 0, shard_index._read_index(files.paths[0]), few=1)
    assert (
        content(found)
        == content(shard_index._index_any(files, 0, shard_index._read_index(files.paths[0]), False))
        == content(index_shard(files, 0, blur_faces=False))
        == content(shard_index.index_shard(files, 0, blur_faces=False))
    )
    assert len(found.keys) == (3 if "json" in extensions and not arrives else 4)
    assert (found.probabilities < 1).any() == (arrives or "json" in extensions)


@pytest.mark.parametrize(
    ("before", "after"),
    {
        "another version": ("v1.2", "v1.1"),
        "a number of samples": ("v1.2 4", "v1.2 5"),
        "two images": ("json", "png"),
        "an extension that differs": ("jpg 512 1 k_0.jpg", "png 512 1 k_0.png"),
        "a key that differs": ("k_0.txt", "k_9.txt"),
        "a key that is repeated": ("k_1.", "k_0."),
        "a key with a dot": ("k_0.", "k.0."),
        "two spaces": ("jpg 512", "jpg  512"),
        "no space": ("jpg 512", "jpg512"),
        "a number in Python's form": ("jpg 512", "jpg 5_12"),
        "no number": ("jpg 512", "jpg x"),
        "a missing number": ("jpg 512 1 k_0.jpg", "jpg 512 k_0.jpg"),
        "a line end of another system": ("\n", "\r\n"),
        "a line end of another kind": ("\n", "\x0b"),
        "no text": ("txt", "TAT"),
        "a quote": ("k_0", '"k_0'),
        "a shorter line": (" json 2560 39 k_0.json", ""),
        "an empty line": ("v1.2 4\n", "v1.2 5\n\n"),
        "an end before the line": ("k_3.json\n", "k_3.json"),
        "a negative offset": ("jpg 512", "jpg -512"),
        "an offset behind the end": ("jpg 512", "jpg 512000"),
        "an enormous offset": ("jpg 512", "jpg 9223372036854775807"),
        "an offset that no number of 64 bits holds": ("jpg 512", "jpg 99999999999999999999"),
    }.values(),
)
def test_an_index_in_any_other_form_is_read_by_general_code(tmp_path, before, after):
    files = write(tmp_path)
    path = files.paths[0].with_suffix(".idx")
    text = read_text(path)
    assert before in text
    path.write_bytes(text.replace(before, after).encode())

    def outcome(read):
        try:
            return content(read())
        except (ContractError, ValueError) as error:
            return type(error)
        except shard_index.tarfile.TarError:
            return ContractError

    general = outcome(lambda: shard_index._index_any(files, 0, shard_index._read_index(files.paths[0]), False))
    found = outcome(lambda: index_shard(files, 0, blur_faces=False))
    assert found == general or (
        isinstance(general, type) and issubclass(general, ContractError) and found is ContractError
    )


def test_rows_in_any_other_form_are_read_by_general_code(tmp_path):
    files = write(tmp_path)
    files = ShardFiles(files.paths, {"0.tar": files.paths[0].stat().st_size})
    path, expected = tmp_path / "part-0.parquet", content(index_shard(files, 0, blur_faces=False))
    table = pq.read_table(path)
    pq.write_table(table.take([3, 2, 0, 1]), path)
    assert content(index_shard(files, 0, blur_faces=False)) == expected
    for wrong in (table.slice(1), table.set_column(2, "sampling_probability", pa.array([0.5, 1.5, 1.0, 1.0]))):
        pq.write_table(wrong, path)
        with pytest.raises(ContractError, match=r"part-0\.parquet"):
            index_shard(files, 0, blur_faces=False)
    path.unlink()
    with pytest.raises(ContractError, match=r"part-0\.parquet"):
        index_shard(files, 0, blur_faces=False)


@pytest.mark.parametrize("is_indexed", [True, False])
def test_a_shard_with_more_samples_than_are_listed_is_an_error(tmp_path, is_indexed):
    files = write(tmp_path)
    path = files.paths[0]
    (tmp_path / "other").mkdir()
    whole = path.read_bytes()
    joined = whole + write(tmp_path / "other", keys="4567").paths[0].read_bytes()
    if not is_indexed:
        path.with_suffix(".idx").unlink()
    expected = content(index_shard(files, 0, blur_faces=False))
    for data in (joined, joined.rstrip(b"\0"), whole + bytes(1 << 21)):
        path.write_bytes(data)
        with pytest.raises(ContractError, match=r"0\.tar is not a whole tar file.*more follows.*copy or make it again"):
            index_shard(files, 0, blur_faces=False)
    path.write_bytes(whole + bytes(9000))
    assert content(index_shard(files, 0, blur_faces=False)) == expected


def test_an_index_of_fewer_members_than_its_shard_is_an_error(tmp_path):
    files = write(tmp_path)
    path = files.paths[0].with_suffix(".idx")
    _, *lines = read_text(path).splitlines()
    path.write_text(join_index_lines(lines[:2]))
    with pytest.raises(
        ContractError, match=r"0\.tar: its \.idx lists 6 members, and the tar has 12; make the index again"
    ):
        index_shard(files, 0, blur_faces=False)


def test_an_image_of_more_bytes_than_a_span_holds_is_an_error(tmp_path):
    files = write(tmp_path)
    path = files.paths[0].with_suffix(".idx")
    path.write_text(read_text(path).replace("jpg 512 1 ", f"jpg 512 {2**32} "))
    with files.paths[0].open("r+b") as file:
        file.truncate(2**33)
    with pytest.raises(ContractError, match=r"more than 4,294,967,295 bytes"):
        index_shard(files, 0, blur_faces=False)


def test_few_shards_are_open_at_a_time_and_all_can_be_read(tmp_path):
    paths = [tmp_path / f"{number}.tar" for number in range(8)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    files = ShardFiles(paths, {}, max_open=3)
    order = np.random.default_rng(0).integers(0, 8, 100).tolist()
    assert [files.read(number, 0, 1)[0] for number in order] == order
    assert len(files._files) == 3
    files.close(keep=frozenset(order[-1:]))
    assert list(files._files) == order[-1:]
    files.close()
    assert MAX_OPEN >= 64


def test_msgspec_sees_each_type_before_there_are_threads():
    """Two threads in which it sees one for the first time crash: `decode(data, type=...)` does so at its first call."""
    folders = (CHECKOUT / name for name in ("dataops", "training", "tasks", "flows", "infra", "plugins"))
    modules = [path for folder in folders for path in folder.rglob("*.py") if "tests" not in path.parts]
    assert [
        path.name for path in modules if re.search(r"msgspec\.\w+\.decode\([^\n]*type=", path.read_text("utf-8"))
    ] == []
