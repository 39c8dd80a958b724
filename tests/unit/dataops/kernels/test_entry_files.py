"""Entries of compiled code are read only from a folder that no other user can write to."""

import logging
import os
import time
from pathlib import Path

import pytest

from dataops.kernels import entry_files
from dataops.kernels.entry_files import (
    cache_folder,
    delete_old_entries,
    distrust,
    list_entries,
    read_entry,
    write_entry,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setattr(entry_files, "_reported", set())
    return tmp_path / "caches" / "pairmill" / "kernels"


def test_an_entry_is_read_as_it_was_written_and_the_folder_is_private(folder: Path):
    assert read_entry("a") is None
    assert not folder.exists(), "reading makes nothing"
    assert write_entry("a", b"one")
    assert write_entry("a", b"two")
    assert read_entry("a") == b"two"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list_entries() == ["a"]


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 40])
def test_a_damaged_entry_is_none_and_is_reported(folder: Path, damage: bytes, caplog: pytest.LogCaptureFixture):
    write_entry("a", b"one")
    (folder / "a").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert read_entry("a") is None
    assert "a is damaged" in caplog.text
    write_entry("a", b"one")
    assert read_entry("a") == b"one"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_nothing_is_read_or_written_where_others_can_write(folder: Path, mode: int, caplog: pytest.LogCaptureFixture):
    write_entry("a", b"one")
    folder.chmod(mode)
    assert read_entry("a") is None
    assert not write_entry("b", b"two")
    assert list_entries() == []
    assert caplog.text.count("is writable by other users") == 1, "once a process"


def test_nothing_is_read_or_written_in_the_folder_of_another_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    write_entry("a", b"one")
    owner = folder.stat().st_uid
    if owner == 0:  # root's folder serves all users: that of an image
        os.chown(folder, 4321, -1)
        owner = 4321
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert read_entry("a") is None
    assert not write_entry("b", b"two")
    assert f"belongs to another user (uid {owner})" in caplog.text
    assert distrust(folder) == f"belongs to another user (uid {owner})"


def test_a_file_that_another_user_can_write_to_or_a_link_is_not_read(folder: Path, tmp_path: Path):
    write_entry("a", b"one")
    (tmp_path / "b").write_bytes((folder / "a").read_bytes())
    (folder / "b").symlink_to(tmp_path / "b")
    assert read_entry("b") is None
    (folder / "a").chmod(0o666)
    assert read_entry("a") is None


def test_old_entries_are_deleted_but_those_in_use(folder: Path):
    for name in ("old", "kept", "new"):
        write_entry(name, b"x")
    for name in ("old", "kept"):
        os.utime(folder / name, (time.time() - 40 * 86_400,) * 2)
    delete_old_entries(30, keep={"kept"})
    assert sorted(list_entries()) == ["kept", "new"]


def test_without_numbas_variable_the_folder_is_among_the_users_caches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/pairmill/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/a")
    assert cache_folder() == Path("/home/a/.cache/pairmill/kernels")
