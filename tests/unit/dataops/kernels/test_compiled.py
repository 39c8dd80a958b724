"""Compiled code and tables are used only from a folder that no other user can change."""

import os

import numpy as np
import pytest

from dataops.kernels.compiled import distrust, load_or_build, open_folder


@pytest.fixture
def folder(tmp_path):
    assert open_folder(tmp_path / "caches" / "kernels")
    return tmp_path / "caches" / "kernels"


def test_a_new_folder_is_private(folder):
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    assert distrust(folder) is None
    assert distrust(folder / "none") is None, "it can be made"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(folder, mode, caplog):
    folder.chmod(mode)
    assert not open_folder(folder)
    assert not open_folder(folder)
    assert caplog.text.count("is writable by other users") == 1, "once a process"


def test_a_folder_below_one_that_others_can_write_to_is_not_used(folder):
    folder.parent.chmod(0o777)
    assert distrust(folder) == f"is in {folder.parent}, which is writable by other users"
    folder.parent.chmod(0o1777)
    assert distrust(folder) is None, "others cannot rename what is not theirs there"


def test_a_folder_of_another_user_or_with_their_files_is_not_used(folder, monkeypatch):
    owner = folder.stat().st_uid
    if owner == 0:  # root's folder serves all users: that of an image
        (folder / "a").touch()
        os.chown(folder / "a", 4321, -1)
        assert distrust(folder) == "has a, which belongs to another user (uid 4321)"
        os.chown(folder, 4321, -1)
        owner = 4321
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert distrust(folder) == f"belongs to another user (uid {owner})"


def test_a_folder_with_a_link_or_a_file_that_others_can_write_to_is_not_used(folder):
    (folder / "a").touch()
    (folder / "a").chmod(0o666)
    assert distrust(folder) is None, "mode 0700 lets nobody in"
    folder.chmod(0o755)
    assert distrust(folder) == "has a, which is writable by other users"
    (folder / "a").unlink()
    (folder / "b").symlink_to(folder / "c")
    assert distrust(folder) == "has b, which is a link"


@pytest.fixture
def builds(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "caches"))
    return []


def ask(builds, *sources):
    def build():
        builds.append("built")
        return {"a": np.arange(5, dtype=np.uint8), "b": np.eye(3)}

    return load_or_build("x", sources, build)


def test_table_is_built_once_until_a_source_changes(builds, tmp_path):
    source = tmp_path / "code.py"
    source.write_text("one")
    first, second = ask(builds, source, "1.0"), ask(builds, source, "1.0")
    assert len(builds) == 1
    for name, table in first.items():
        assert second[name].dtype == table.dtype
        assert second[name].tolist() == table.tolist()
        assert second[name].flags.writeable, "compiled code takes no other"
    source.write_text("two")
    ask(builds, source, "1.0")
    ask(builds, source, "1.1")
    assert len(builds) == 3


@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped", "pickle"])
def test_table_is_rebuilt_when_damaged(builds, tmp_path, damage):
    ask(builds)
    (path,) = (tmp_path / "caches" / "pairmill" / "tables").iterdir()
    if damage == "pickle":
        np.savez(path, b=np.array([{}], object))
    elif damage == "flipped":
        path.write_bytes(path.read_bytes().replace(np.eye(3).tobytes(), np.eye(3, k=1).tobytes()))
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "emptied" else 150])
    assert ask(builds)["b"].tolist() == np.eye(3).tolist()
    assert len(builds) == 2
    ask(builds)
    assert len(builds) == 2
