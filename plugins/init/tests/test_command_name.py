import pytest

from plugins.init.init import command_name_elsewhere


@pytest.mark.parametrize("typed", ["pairmill", "bin/pairmill", "bin/python -m flows.cli"])
def test_command_runs_in_another_folder_too(monkeypatch, tmp_path, typed):
    monkeypatch.chdir(tmp_path)
    assert command_name_elsewhere(typed) == typed.replace("bin/", f"{tmp_path}/bin/")
