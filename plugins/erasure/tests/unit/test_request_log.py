"""The register keeps each letter with its dates, and when it was done."""

from datetime import UTC, date, datetime, timedelta

import pytest

from dataops.errors import ConfigError, CorruptPart
from dataops.store import FolderStore
from plugins.erasure.request_log import list_logs, load_log, make_letter


def today():
    """Return the day in UTC, which may change while the tests run."""
    return datetime.now(UTC).date()


def test_letter_is_due_a_month_after_it_was_received():
    letter = make_letter(" Jane ", "2026-11-01", "", "why")
    assert (letter.requested_by, letter.due) == ("Jane", date(2026, 12, 1))
    assert make_letter("", "", "", "").received == today()


@pytest.mark.parametrize(
    ("received", "due", "message"),
    [
        ("1.11.2026", "", "no date"),
        ("", "soon", "no date"),
        ("9999-01-01", "", "in the future"),
        ("2026-11-02", "2026-11-01", "before the day"),
    ],
)
def test_date_that_is_not_valid_is_an_error(received, due, message):
    with pytest.raises(ConfigError, match=message):
        make_letter("", received, due, "")


def test_request_is_done_when_a_call_that_deletes_raw_images_left_nothing(tmp_path):
    store = FolderStore(tmp_path)
    received = today() - timedelta(40)
    letter = make_letter("Jane", received.isoformat(), "", "why")
    log = load_log(store, "0" * 16, 2)
    for deletes_raw, is_complete, state in [(False, True, "overdue"), (True, False, "overdue"), (True, True, "done")]:
        log = log.begin(letter, is_named=True, deletes_raw=deletes_raw)
        log.save(store)  # a killed call leaves this
        log = load_log(store, "0" * 16, 2).end(is_complete=is_complete)
        log.save(store)
        (row,) = log.rows(store.uri, today())
        assert row["state"] == state
    assert (row["days_to_completion"], row["calls"], row["requested_by"]) == (40, 3, "Jane")
    later = load_log(store, "0" * 16, 2).begin(make_letter("", "", "", ""), is_named=False, deletes_raw=True)
    assert len(later.letters) == 1, "a repeated call is no further letter"
    other = later.begin(make_letter("Jack", "", "", ""), is_named=True, deletes_raw=True)
    assert [one.state(today()) for one in other.letters] == ["done", "open"]
    assert [one.request for one in list_logs(store)] == ["0" * 16]


def test_damaged_log_is_named(tmp_path):
    store = FolderStore(tmp_path)
    store.put("takedowns/0000000000000000.log.json", b"{")
    with pytest.raises(CorruptPart, match="no log of a request"):
        list_logs(store)
