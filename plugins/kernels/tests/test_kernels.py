"""The folder of compiled functions. `make install` itself compiles them, before any test."""

import os
import time

import pytest

from dataops.errors import PairmillError
from plugins import kernels


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "caches"))
    return tmp_path / "caches" / "pairmill" / "kernels"


def compile_one(folder):
    assert folder.is_dir()
    kernels.cache_folder().joinpath("new.nbc").touch()


def test_functions_are_compiled_and_old_ones_deleted(folder):
    folder.mkdir(mode=0o700, parents=True)
    (folder / "old.nbc").touch()
    long_ago = time.time() - 40 * 86_400
    os.utime(folder / "old.nbc", (long_ago, long_ago))
    kernels.compile_all([compile_one])
    assert [path.name for path in folder.iterdir()] == ["new.nbc"]


def test_a_folder_that_others_can_write_to_is_named(folder):
    kernels.compile_all([])
    folder.chmod(0o777)
    with pytest.raises(PairmillError, match=f"{folder} is writable by other users"):
        kernels.compile_all([])
