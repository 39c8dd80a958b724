import shutil
from pathlib import Path

import pytest

from dataops.command_name import command_name_elsewhere, find_command_name


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with an installed command in `.venv/bin`, and work in it with an empty PATH."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("pairmill", "python"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    return programs


def test_command_on_path_is_named_without_its_folder(installed: Path, monkeypatch: pytest.MonkeyPatch):
    script = str(installed / "pairmill")
    monkeypatch.setenv("PATH", str(installed))
    assert find_command_name([str(installed / "python"), script, "runs"], script) == "pairmill"
    monkeypatch.setenv("UV", "/usr/bin/uv")  # `uvx` put it there, for this process alone
    assert find_command_name([str(installed / "python"), script, "runs"], script) == ".venv/bin/pairmill"
    monkeypatch.delenv("UV")
    other = installed.parent / "other folder"
    other.mkdir()
    shutil.copy(script, other / "pairmill")
    name = find_command_name(["python", str(other / "pairmill")], str(other / "pairmill"))
    assert name == "'.venv/other folder/pairmill'", "another checkout's command is on PATH"


@pytest.mark.parametrize("typed", ["pairmill", "bin/pairmill", "bin/python -m flows.cli"])
def test_command_runs_in_another_folder_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: str):
    monkeypatch.chdir(tmp_path)
    assert command_name_elsewhere(typed) == typed.replace("bin/", f"{tmp_path}/bin/")
