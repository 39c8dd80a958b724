"""The check of compiled functions: each fault has a remedy."""

from pathlib import Path

import pytest

from infra.doctor.kernels import REMEDY, check_kernels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path / "pairmill" / "kernels"


@pytest.mark.parametrize(
    ("compiled", "detail"),
    [(True, "functions are compiled"), (False, "the functions of the stages are not compiled")],
)
def test_missing_functions_are_reported_with_the_command_that_compiles_them(folder: Path, compiled: bool, detail: str):
    check = check_kernels(lambda: compiled)
    assert (check.ok, check.severity, check.remedy) == (compiled, "warning", "" if compiled else REMEDY)
    assert detail in check.detail


def test_a_folder_that_others_can_write_to_is_reported(folder: Path):
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    check = check_kernels(lambda: True)
    assert not check.ok
    assert f"{folder} is writable by other users" in check.detail
    assert "NUMBA_CACHE_DIR" in check.remedy


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch):
    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    check = check_kernels(lambda: True)
    assert not check.ok
    assert "NUMBA_CACHE_DIR" in check.remedy
