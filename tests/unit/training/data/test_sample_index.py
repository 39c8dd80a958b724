"""The index of the samples: built whole or not at all, again where it is not this one, in the memory of a few shards."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tar_files import write_tar
from tests.trainings import pairs
from training.data import sample_index
from training.data.sample_index import build_index, fingerprint_shards, open_index, verify_index
from training.data.shard_files import ShardFiles
from training.data.shard_index import Skipped


def make(folder, files, *, blur_faces=False, workers=0):
    fingerprint = fingerprint_shards(files, {}, blur_faces=blur_faces)
    build_index(folder, files, fingerprint, blur_faces=blur_faces, workers=workers)
    assert verify_index(folder, fingerprint)
    index = open_index(folder, fingerprint)
    return index


@pytest.fixture
def files(tmp_path):
    """Write three shards, of which the second has names of all kinds and the only probability below 1."""
    names = ["a", "folder/" + "k" * 150, "\udcff", "ä"]
    odd = [(f"{name}.{kind}", b"?") for name in names for kind in ("png", "txt")]
    odd += [("a.json", b'{"sampling_probability":0.5,"face_bboxes":[[0,0.25,0.5,1],[0,0,1,1]]}'), ("lost.png", b"?")]
    odd += [("ä.json", b'{"face_bboxes":[]}')]
    paths = [
        write_tar(tmp_path / f"{number}.tar", members) for number, members in enumerate([pairs(0, 3), odd, pairs(3, 5)])
    ]
    return ShardFiles(paths, {})


@pytest.mark.parametrize("workers", [0, 3])
def test_an_index_holds_the_samples_of_all_shards(tmp_path, files, workers):
    index = make(tmp_path / "index", files, workers=workers)
    assert (len(index), index.sizes.tolist()) == (12, [3, 4, 5])
    assert [index.shard_of(sample) for sample in range(12)] == [0] * 3 + [1] * 4 + [2] * 5
    assert [list(index.samples_of(shard)) for shard in range(3)] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10, 11]]
    keys = ["000000", "000001", "000002", "a", "folder/" + "k" * 150, "\udcff", "ä", "000003"]
    assert [index.key(sample) for sample in range(8)] == keys
    assert [files.read(index.shard_of(s), *index.caption_span(s)) for s in (0, 3, 11)] == [
        b"a red thing 0",
        b"?",
        b"a pale thing 7",
    ]
    assert files.read(0, *index.image_span(2))[:3] == b"\xff\xd8\xff"
    assert index.skipped == [Skipped("1.tar", "lost", "no txt member")]
    assert index.sampling.probabilities.tolist() == [1, 1, 1, 0.5] + 8 * [1]
    assert np.flatnonzero(index.sampling.identities).tolist() == [3]
    assert index.faces(3) == []
    with_faces = make(tmp_path / "faces", files, blur_faces=True)
    assert [with_faces.key(sample) for sample in range(2)] == ["a", "ä"]
    assert [with_faces.faces(sample) for sample in range(2)] == [[(0, 0.25, 0.5, 1), (0, 0, 1, 1)], []]
    assert len(with_faces.skipped) == 11


DAMAGES = {
    "a bit of a column": lambda folder: _flip(folder / "spans"),
    "a column that ends early": lambda folder: os.truncate(folder / "keys", 5),
    "a column that is missing": lambda folder: (folder / "identities").unlink(),
    "a column that is a folder": lambda folder: ((folder / "keys").unlink(), (folder / "keys").mkdir()),
    "no header": lambda folder: (folder / "index.json").unlink(),
    "half a header": lambda folder: os.truncate(folder / "index.json", 40),
    "another header": lambda folder: (folder / "index.json").write_text("[]"),
    "an unknown column": lambda folder: _edit(folder, lambda header: header["columns"].update(x={"bytes": 0})),
    "another version": lambda folder: _edit(folder, lambda header: header.update(version=0)),
    "other shards": lambda folder: _edit(folder, lambda header: header.update(fingerprint="0" * 64)),
}


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit(folder, change):
    header = json.loads((folder / "index.json").read_text())
    change(header)
    (folder / "index.json").write_text(json.dumps(header))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_index_that_is_not_whole_is_built_again(tmp_path, files, damage):
    folder = tmp_path / "index"
    index = make(folder, files)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)
    assert not verify_index(folder, index.fingerprint)
    make(folder, files)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_build_that_ends_early_leaves_the_index_as_it_was(tmp_path, files, monkeypatch):
    folder = tmp_path / "index"
    monkeypatch.setattr(sample_index, "index_shard", lambda files, number, **_: [][number])
    with pytest.raises(IndexError):
        make(folder, files)
    assert not folder.exists()
    monkeypatch.undo()
    index = make(folder, files)
    monkeypatch.setattr(Path, "rename", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(folder, files)
    monkeypatch.undo()
    assert not verify_index(folder, index.fingerprint), "nothing, rather than a half"
    assert len(make(folder, files)) == 12


def test_a_fingerprint_changes_with_each_shard(files):
    checksums = {path.name: str(number) for number, path in enumerate(files.paths)}

    def prints():
        return [fingerprint_shards(files, known, blur_faces=False) for known in ({}, checksums)]

    first = prints()
    assert fingerprint_shards(files, {}, blur_faces=True) not in first
    os.utime(files.paths[1], (1, 1))
    touched = prints()
    assert [a == b for a, b in zip(first, touched, strict=True)] == [False, True], "a checksum does without times"
    checksums["1.tar"] = "x"
    assert prints()[1] != first[1]
    files.paths[2].with_suffix(".idx").write_text("v1.2 0\n")
    assert len({*first, *touched, *prints()}) == 5


def test_memory_of_a_build_does_not_grow_with_the_shards(tmp_path):
    """Index shards of which only the index and the rows are here, all of them links to the same two files."""
    each = 1000
    lines = [f"jpg {1024 * n} 9 {n:08d}.jpg txt {1024 * n + 512} 9 {n:08d}.txt" for n in range(each)]
    (tmp_path / "0.idx").write_text("\n".join([f"v1.2 {each}", *lines]) + "\n")
    keys = pa.array([f"{n:08d}" for n in range(each)])
    rows = {"key": keys, "uid": keys, "sampling_probability": pa.array([0.5] * each)}
    pq.write_table(pa.table(rows), tmp_path / "part-0.parquet")

    def peak(shards):
        paths = [tmp_path / f"{number}.tar" for number in range(shards)]
        for path in paths:
            for name in (f"{path.stem}.idx", f"part-{path.stem}.parquet"):
                if not (tmp_path / name).exists():
                    os.link(tmp_path / name.replace(path.stem, "0"), tmp_path / name)
        files = ShardFiles(paths, {path.name: 1024 * each for path in paths})
        tracemalloc.start()
        index = make(tmp_path / "index", files)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(index) == shards * each
        return found

    few, many = peak(4), peak(20)
    assert many < few + 16 * each * 4, "the columns have 48 bytes a sample"
