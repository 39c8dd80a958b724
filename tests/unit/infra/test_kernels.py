"""The mark that set-up has compiled all functions. `make install` itself compiles them, before any test."""

import os
import time
from pathlib import Path

import pytest

from dataops.errors import PairmillError
from infra import kernels


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "caches"))
    return tmp_path / "caches" / "pairmill" / "kernels"


def compile_one(folder: Path) -> None:
    assert folder.is_dir()
    kernels.cache_folder().joinpath("new.nbc").touch()


def test_functions_are_compiled_for_this_code_and_processor(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert not kernels.is_compiled()
    folder.mkdir(mode=0o700, parents=True)
    (folder / "old.nbc").touch()
    os.utime(folder / "old.nbc", (time.time() - 40 * 86_400,) * 2)
    kernels.compile_all([compile_one])
    assert kernels.is_compiled()
    assert (folder / "new.nbc").exists()
    assert not (folder / "old.nbc").exists()
    monkeypatch.setenv("NUMBA_CPU_NAME", "another")
    assert not kernels.is_compiled()


def test_a_folder_that_others_can_write_to_is_named(folder: Path):
    kernels.compile_all([])
    folder.chmod(0o777)
    assert not kernels.is_compiled()
    with pytest.raises(PairmillError, match=f"{folder} is writable by other users"):
        kernels.compile_all([])
