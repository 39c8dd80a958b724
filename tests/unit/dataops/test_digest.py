"""Digests of files are remembered, and computed again where a file has changed."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from dataops import digest
from dataops.digest import RememberedDigests, file_sha256


@pytest.fixture
def hashed(monkeypatch):
    """Return the names of the files that are hashed from now on."""
    names, compute = [], hashlib.file_digest

    def record(file, name):
        names.append(Path(file.name).name if isinstance(file.name, str) else file.fileno())
        return compute(file, name)

    monkeypatch.setattr(digest.hashlib, "file_digest", record)
    return names


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_a_digest_is_computed_once(tmp_path, file, hashed):
    expected = hashlib.sha256(b"content").hexdigest()
    for _ in range(2):
        digests = RememberedDigests(tmp_path / "new" / "memo.json")
        assert [digests.sha256(file) for _ in range(2)] == 2 * [expected]
        digests.save()
    assert RememberedDigests(tmp_path / "other.json", [tmp_path / "new" / "memo.json"]).sha256(file) == expected
    assert len(hashed) == 1
    digests = RememberedDigests(tmp_path / "new" / "memo.json")
    digests.save()
    assert RememberedDigests(tmp_path / "new" / "memo.json").sha256(file) == expected
    assert len(hashed) == 1, "a memo keeps the files that a start did not come to"


CHANGES = {
    "other bytes": lambda path: path.write_bytes(b"CONTENT"),
    "more bytes at the same time": lambda path: (path.write_bytes(b"content."), os.utime(path, ns=(10**18, 10**18))),
    "another time": lambda path: os.utime(path, ns=(10**18, 10**18 + 1)),
    "another file in its place": lambda path: (
        path.with_name("b").write_bytes(b"CONTENT"),
        os.utime(path.with_name("b"), ns=(10**18, 10**18)),
        path.with_name("b").replace(path),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_noticed(tmp_path, file, change):
    digests = RememberedDigests(tmp_path / "memo.json")
    digests.sha256(file)
    digests.save()
    change(file)
    assert RememberedDigests(tmp_path / "memo.json").sha256(file) == file_sha256(file)


def test_a_file_that_has_just_been_written_is_not_remembered(tmp_path, file, hashed):
    os.utime(file)
    digests = RememberedDigests(tmp_path / "memo.json")
    assert [digests.sha256(file) for _ in range(2)] == 2 * [hashlib.sha256(b"content").hexdigest()]
    assert len(hashed) == 2


@pytest.mark.parametrize("memo", ["", "[]", "{", '{"PATH": 1}', '{"PATH": [7, 0, 0, 0, "0"], "b": [7]}', "\udcff"])
def test_a_memo_that_is_not_whole_is_ignored(tmp_path, file, memo):
    path = tmp_path / "memo.json"
    path.write_text(memo.replace("PATH", str(file)), errors="surrogateescape")
    digests = RememberedDigests(path)
    assert digests.sha256(file) == hashlib.sha256(b"content").hexdigest()
    digests.save()
    assert list(json.loads(path.read_text())) == [str(file)]
