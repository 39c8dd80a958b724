"""The list of the functions that set-up has compiled. `make install` itself compiles them, before any test."""

import json
from pathlib import Path

import pytest

from dataops.errors import PairmillError
from dataops.kernels.entry_files import write_entry
from infra import kernels


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "caches"))
    return tmp_path / "caches" / "pairmill" / "kernels"


def test_missing_functions_are_counted_for_this_code_and_processor(monkeypatch: pytest.MonkeyPatch):
    assert kernels.count_missing() is None
    write_entry(kernels._ready_name(), json.dumps(["a", "b"]).encode())
    write_entry("a", b"code")
    assert kernels.count_missing() == (2, 1)
    write_entry("b", b"code")
    assert kernels.count_missing() == (2, 0)
    monkeypatch.setenv("NUMBA_CPU_NAME", "another")
    assert kernels.count_missing() is None


def test_a_folder_that_others_can_write_to_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "SAMPLES", (_compile_nothing,))
    assert kernels.compile_all() == set()
    assert kernels.count_missing() == (0, 0)
    folder.chmod(0o777)
    with pytest.raises(PairmillError, match=f"{folder} is writable by other users"):
        kernels.compile_all()


def _compile_nothing(_: Path) -> None: ...
