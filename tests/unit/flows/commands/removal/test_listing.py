"""`takedowns` lists the register, and its check ends with 3 and an event for each request near its deadline."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dataops.store import FolderStore
from flows import events
from flows.commands.removal.listing import ListOptions, list_takedowns
from tasks.takedown.request_log import RequestLog, make_letter

TODAY = datetime.now(UTC).date()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    store = FolderStore(tmp_path / "store")
    for number, days in enumerate((-1, 2, 20)):
        received = (TODAY - timedelta(30)).isoformat()
        letter = make_letter(f"=Jane {number}", received, (TODAY + timedelta(days)).isoformat(), "why")
        log = RequestLog(request=f"{number:016x}", targets=1).begin(letter, is_named=True, deletes_raw=True)
        log.save(store)
    done = RequestLog(request="f" * 16, targets=1).begin(make_letter("", "", "", ""), is_named=True, deletes_raw=True)
    done.end(is_complete=True, summary={}).save(store)
    return tmp_path


def test_check_ends_with_3_and_announces_what_is_due_without_who_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[Any] = []
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(events, "emit_event", lambda *args, **kwargs: sent.append((args, kwargs)))
    assert list_takedowns(ListOptions(check=True), home, None, as_json=True) == 3
    result = json.loads(capsys.readouterr().out)
    assert result["urgent"] == [f"{0:016x}", f"{1:016x}"]
    assert [row["state"] for row in result["requests"]] == ["overdue", "open", "open", "done"]
    assert [kwargs["payload"]["days"] for _, kwargs in sent] == [-1, 2]
    assert "Jane" not in str(sent)
    assert list_takedowns(ListOptions(check=True, days=30), home, None, as_json=False) == 3
    assert list_takedowns(ListOptions(), home, None, as_json=False) == 0


def test_csv_has_each_letter_and_no_formula(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_takedowns(ListOptions(csv=home / "out.csv"), home, None, as_json=False) == 0
    lines = (home / "out.csv").read_text().splitlines()
    assert len(lines) == 5
    assert ",'=Jane 0," in lines[1]
    assert "Takedown requests" in capsys.readouterr().out


def test_empty_register_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_takedowns(ListOptions(csv=tmp_path / "out.csv", check=True), tmp_path, None, as_json=False) == 0
    assert "No takedown is recorded." in capsys.readouterr().out
