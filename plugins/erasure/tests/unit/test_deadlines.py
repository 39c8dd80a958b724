"""Each scheduled run logs and announces the requests of its store that are due."""

from datetime import UTC, datetime, timedelta

import pytest

from dataops.store import FolderStore
from plugins.erasure import deadlines
from plugins.erasure.deadlines import report_due_requests
from plugins.erasure.request_log import RequestLog, make_letter


def today():
    """Return the day in UTC, which may change while the tests run."""
    return datetime.now(UTC).date()


def record_request(store, number, days):
    """Record a request that is due after some days."""
    letter = make_letter("Jane Roe", (today() - timedelta(30)).isoformat(), (today() + timedelta(days)).isoformat(), "")
    RequestLog(request=f"{number:016x}", targets=1).begin(letter, is_named=True, deletes_raw=False).save(store)


@pytest.fixture
def sent(monkeypatch):
    """Collect what would be sent to the server."""
    requests = []
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(deadlines, "announce", lambda rows, today: requests.extend(rows))
    return requests


def test_requests_near_or_past_their_deadline_are_announced(tmp_path, sent, caplog):
    store = FolderStore(tmp_path)
    report_due_requests(store)
    assert not sent
    for number, days in enumerate((-1, 3, 4)):
        record_request(store, number, days)
    report_due_requests(store)
    assert [row["request"] for row in sent] == [f"{0:016x}", f"{1:016x}"]
    assert [line.split(",")[0] for line in caplog.messages] == [
        f"takedown {0:016x} is overdue",
        f"takedown {1:016x} is open",
    ]
    assert "Jane" not in caplog.text
