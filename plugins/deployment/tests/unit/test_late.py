import json

import pytest

from plugins.deployment.late import list_late_runs
from tests.servers.loopback import Handler, serving

LATE = [{"name": "green-lemur", "expected_start_time": "2026-12-01T03:00:00.000000Z"}]


class Prefect(Handler):
    def do_POST(self):
        self.server.asked.append((self.path, json.loads(self.read_body())["flow_runs"]))
        self.answer(self.server.status, self.server.body)


@pytest.mark.parametrize("status", [200, 401])
def test_late_runs_are_named_with_their_time(status, monkeypatch):
    with serving(Prefect, status=status, body=json.dumps(LATE).encode(), asked=[]) as server:
        monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
        found = list_late_runs()
        assert server.asked == [("/api/flow_runs/filter", {"state": {"name": {"any_": ["Late"]}}})]
    assert len(found) == (status == 200)
    for line in found:
        assert "green-lemur is late" in line
        assert "since 2026-12-01T03:00 UTC" in line


def test_no_run_is_late_where_no_server_answers(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert list_late_runs() == []


@pytest.mark.parametrize("body", [b"<html>", b'{"detail": "x"}', b"[1]", b"[{}]", b"3", b"\xff"])
def test_no_run_is_late_where_another_server_answers(body, monkeypatch):
    with serving(Prefect, status=200, body=body, asked=[]) as server:
        monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
        assert list_late_runs() == []
