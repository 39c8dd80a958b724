"""`takedown list` lists the register; its check and each scheduled run announce requests near their deadline."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings

from dataops.store import FolderStore
from plugins.erasure.list_command import command
from plugins.erasure.request_log import RequestLog, make_letter
from tests.servers.recorder import serve_recorder


def today():
    """Return the day in UTC, which may change while the tests run."""
    return datetime.now(UTC).date()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    store = FolderStore(tmp_path / "store")
    for number, days in enumerate((-1, 3, 4)):
        received = (today() - timedelta(30)).isoformat()
        letter = make_letter(f"Jane {number}", received, (today() + timedelta(days)).isoformat(), "why")
        log = RequestLog(request=f"{number:016x}", targets=1).begin(letter, is_named=True, deletes_raw=True)
        log.save(store)
    done = RequestLog(request="f" * 16, targets=1).begin(make_letter("", "", "", ""), is_named=True, deletes_raw=True)
    done.end(is_complete=True).save(store)
    return tmp_path


@pytest.fixture
def prefect(monkeypatch):
    """Run a server that records what is sent to it, as the Prefect server of the environment."""
    with (
        serve_recorder() as server,
        temporary_settings({PREFECT_API_URL: f"{server.url}/api", PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}),
    ):
        monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
        yield server


def test_check_ends_with_3_and_announces_what_is_due_without_who_asked(home, prefect, capsys):
    assert command(check=True, json=True) == 3
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert output.err == ""
    assert result["urgent"] == [f"{0:016x}", f"{1:016x}"]
    assert [row["state"] for row in result["requests"]] == ["overdue", "open", "open", "done"]
    (call,) = prefect.calls  # the server has the events when the command ends
    assert call.path == "/api/events"
    assert [event["event"] for event in call.json()] == ["pairmill.takedown.due"] * 2
    assert [event["payload"]["days"] for event in call.json()] == [-1, 3]
    assert b"Jane" not in call.body
    assert command(check=True, days=30) == 3
    assert command() == 0
    assert len(prefect.calls) == 2
