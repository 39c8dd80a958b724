import json

import pytest

from plugins.deployment.late import list_late_runs, list_paused_pools
from tests.servers.loopback import Handler, serving

RUN = {"expected_start_time": "2026-12-01T03:00:00.000000Z"}
LATE = [{"name": "green-lemur", **RUN}, {"name": "blue-lemur", "work_pool_name": "gpus", **RUN}]
POOLS = [{"name": "pairmill", "is_paused": False}, {"name": "gpus", "is_paused": True}]


class Prefect(Handler):
    def do_POST(self):
        self.server.asked.append((self.path, json.loads(self.read_body())))
        self.answer(self.server.status, self.server.pools if "work_pools" in self.path else self.server.body)


@pytest.mark.parametrize("status", [200, 401])
def test_late_runs_are_named_with_their_time(status, monkeypatch):
    bodies = {"body": json.dumps(LATE).encode(), "pools": json.dumps(POOLS).encode()}
    with serving(Prefect, status=status, **bodies, asked=[]) as server:
        monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
        found = list_late_runs()
        assert list_paused_pools() == ({"gpus"} if status == 200 else set())
        path, query = server.asked[0]
    assert (path, query["flow_runs"]) == ("/api/flow_runs/filter", {"state": {"name": {"any_": ["Late"]}}})
    since = "since 2026-12-01T03:00 UTC"
    assert found == (status == 200) * [
        f"Flow run green-lemur is late: no worker has begun it {since}. Start one: `pairmill up --worker`",
        f"Flow run blue-lemur is late {since}: its work pool gpus is paused. Resume it on Prefect's page Work Pools.",
    ]


def test_no_run_is_late_where_no_server_answers(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert list_late_runs() == []


@pytest.mark.parametrize("body", [b"<html>", b'{"detail": "x"}', b"[1]", b"[{}]", b"3", b"\xff"])
def test_no_run_is_late_where_another_server_answers(body, monkeypatch):
    with serving(Prefect, status=200, body=body, pools=body, asked=[]) as server:
        monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
        assert (list_late_runs(), list_paused_pools()) == ([], set())
