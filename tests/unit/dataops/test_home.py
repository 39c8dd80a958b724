import logging
import os
from pathlib import Path

import pytest

from dataops import home as home_module
from dataops.errors import ConfigError
from dataops.home import home, private_folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project with a `.pairmill`, go into a folder of it, and return the project's folder."""
    folder = tmp_path / "user" / "project"
    (folder / "pages" / "2026").mkdir(parents=True)
    (folder / ".pairmill").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(folder / "pages" / "2026")
    return folder


@pytest.fixture
def give_to_another_user(monkeypatch):
    """Make a path belong to another user, by what `lstat` returns: only root could change the owner."""
    given = set()
    lstat = Path.lstat

    def owned(path):
        found = lstat(path)
        return os.stat_result([*found[:4], 54321, *found[5:10]]) if path in given else found

    monkeypatch.setattr(Path, "lstat", owned)
    return given.add


def test_search_ends_at_the_root_of_the_file_system(project, monkeypatch):
    stat = Path.stat

    def mounted(path, **options):
        found = stat(path, **options)
        if path != project:
            return found
        return os.stat_result([*found[:2], found.st_dev + 1, *found[3:10]])

    monkeypatch.setattr(Path, "stat", mounted)
    assert home() == project / "pages" / "2026" / ".pairmill"


def test_home_of_another_user_above_is_ignored_and_reported_once(project, give_to_another_user, caplog):
    give_to_another_user(project / ".pairmill")
    with caplog.at_level(logging.WARNING):
        assert home() == project / "pages" / "2026" / ".pairmill"
        home()
    assert [record.getMessage() for record in caplog.records] == [
        f"{project}/.pairmill belongs to another user (uid 54321) and is ignored; set PAIRMILL_HOME to use it"
    ]
    (project.parent / ".pairmill").mkdir()
    assert home() == project.parent / ".pairmill", "the search goes on above it"


def test_link_of_another_user_is_ignored_and_a_link_of_this_user_is_followed(
    project, give_to_another_user, monkeypatch
):
    target = project.parent / "large disk"
    (project / ".pairmill").rename(target)
    (project / ".pairmill").symlink_to(target)
    assert home() == target
    give_to_another_user(project / ".pairmill")
    assert home() == project / "pages" / "2026" / ".pairmill"
    target.rename(project / "renamed")
    monkeypatch.chdir(project)
    with pytest.raises(ConfigError, match="belongs to another user"):  # a link to what it could make this user create
        home()


def test_home_of_another_user_in_the_working_folder_is_an_error_unless_it_is_named(
    project, give_to_another_user, monkeypatch
):
    monkeypatch.chdir(project)
    give_to_another_user(project / ".pairmill")
    with pytest.raises(ConfigError, match=r"\.pairmill belongs to another user \(uid 54321\); work in a folder"):
        home()
    monkeypatch.setenv("PAIRMILL_HOME", ".pairmill")
    assert home() == project / ".pairmill"


def test_who_became_root_with_sudo_keeps_the_home(monkeypatch):
    monkeypatch.setenv("SUDO_UID", "54321")
    for effective, trusted in ((0, {0, 54321}), (1000, {1000})):
        monkeypatch.setattr(os, "geteuid", lambda effective=effective: effective)
        assert home_module._own_ids() == trusted


def test_private_folder_is_created_with_user_only_mode_and_keeps_an_existing_mode(tmp_path):
    assert private_folder(tmp_path / "a" / "home").stat().st_mode & 0o777 == 0o700
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)  # whatever the umask is
    assert private_folder(tmp_path / "shared").stat().st_mode & 0o777 == 0o755
