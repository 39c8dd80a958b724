import shutil
from pathlib import Path

import pytest

from dataops import command_name
from dataops.command_name import find_command_name, name_command


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


def test_command_that_is_not_on_path_is_named_as_typed(installed: Path):
    for typed in (".venv/bin/pairmill", str(installed / "pairmill")):
        assert find_command_name(["/usr/bin/python3", typed, "demo"], typed) == ".venv/bin/pairmill"


def test_command_on_path_is_named_without_its_folder(installed: Path, monkeypatch: pytest.MonkeyPatch):
    script = str(installed / "pairmill")
    monkeypatch.setenv("PATH", str(installed))
    assert find_command_name([str(installed / "python"), script, "runs"], script) == "pairmill"
    other = installed.parent / "other folder"
    other.mkdir()
    shutil.copy(script, other / "pairmill")
    name = find_command_name(["python", str(other / "pairmill")], str(other / "pairmill"))
    assert name == "'.venv/other folder/pairmill'", "another checkout's command is on PATH"


def test_module_and_script_are_named_with_their_interpreter(installed: Path, monkeypatch: pytest.MonkeyPatch):
    script = str(installed.parent.parent / "flows" / "cli.py")
    assert find_command_name([".venv/bin/python", "-m", "flows.cli", "runs"], script) == ".venv/bin/python -m flows.cli"
    full = str(installed / "python")
    assert find_command_name([full, "-X", "dev", "-m", "flows.cli"], script) == ".venv/bin/python -X dev -m flows.cli"
    assert find_command_name(["/opt/python", script], script) == "/opt/python flows/cli.py"
    monkeypatch.setenv("PATH", str(installed))
    assert find_command_name([full, "-m", "flows.cli"], script) == "python -m flows.cli"


def test_messages_name_the_typed_command_where_they_name_a_command(monkeypatch: pytest.MonkeyPatch):
    assert name_command("`pairmill runs` lists all runs") == "`pairmill runs` lists all runs"
    monkeypatch.setattr(command_name, "_typed", "bin/pairmill")
    for message, shown in (
        ("`pairmill runs` lists all runs", "`bin/pairmill runs` lists all runs"),
        ("to move it back: pairmill promote a/1", "to move it back: bin/pairmill promote a/1"),
        ("failed\npairmill rerun x", "failed\nbin/pairmill rerun x"),
        ("remedy: pairmill up", "remedy: bin/pairmill up"),
        ("pairmill running is a name", "pairmill running is a name"),
        ("a caption with pairmill show in it", "a caption with pairmill show in it"),
        ("/srv/pairmill runs", "/srv/pairmill runs"),
    ):
        assert name_command(message) == shown
