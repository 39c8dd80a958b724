import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from infra.local import login, supervisor
from infra.local import supervisor as processes
from infra.local.supervisor import Service


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    return tmp_path


def test_login_is_random_and_only_its_user_can_read_it(home):
    assert login.read_login() is None
    first = login.write_new_login()
    assert login.read_login() == first
    assert stat.S_IMODE(login.login_file().stat().st_mode) == 0o600
    assert len(first) > 32
    login.login_file().chmod(0o644)
    assert login.write_new_login() != first
    assert stat.S_IMODE(login.login_file().stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["prefect-login"]


def test_start_after_a_stop_makes_new_secrets_and_restart_after_a_crash_keeps_them(home):
    kept = []

    def make(*, keep):
        kept.append(keep)
        return {"PLANTED": "planted-secret"}

    command = (sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1")
    service = Service("web", command, "/", {}, None, secrets=make)
    folder = home / "services" / "web"

    def start():
        with supervisor.lock(home / "services"):
            return supervisor.ensure_running(home / "services", [service], 60)[0]

    record = start()
    try:
        assert start() == record
        assert kept == [False]
        assert "planted-secret" not in (folder / "state.json").read_text() + (folder / "log").read_text()
        environ = Path(f"/proc/{record.pid}/environ")
        if environ.exists():
            assert b"PLANTED=planted-secret" in environ.read_bytes().split(b"\0")
        processes.terminate(record.pid, str(folder), grace_s=1)
        record = start()
        assert kept == [False, True]
        record = supervisor.stop(folder, record)
        record = start()
        assert kept == [False, True, False]
    finally:
        supervisor.stop(folder, replace(record))
