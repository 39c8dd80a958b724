"""The dependency audit with the real pip-audit and a vulnerability service on loopback."""

import json
import subprocess
import threading
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra import audit

pytestmark = pytest.mark.timeout(120)

ADVISORY = {
    "id": "GHSA-test-test-test",
    "aliases": ["CVE-2026-0001"],
    "summary": "a hole",
    "affected": [
        {
            "package": {"name": "idna", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9999"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """The part of OSV's interface that pip-audit uses."""

    requested: set[str]

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        self.requested.add(name)
        body = json.dumps({"vulns": [ADVISORY]} if name == "idna" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    handler = type("Handler", (Advisories,), {"requested": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PAIRMILL_OSV_URL", f"http://127.0.0.1:{server.server_port}")
        yield handler.requested
        server.shutdown()


def accept(
    path: Path, until: str, advisory: str = "CVE-2026-0001", reason: str = "it gets no names from outside"
) -> Path:
    path.write_text(f'[[accepted]]\nid = "{advisory}"\nuntil = {until}\nreason = "{reason}"\n')
    return path


def test_audit_fails_until_an_advisory_is_accepted_and_again_after_its_date(
    requested: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run_once = lru_cache(lambda *command: subprocess.run(command, capture_output=True, text=True, check=False))
    monkeypatch.setattr(audit, "subprocess", SimpleNamespace(run=lambda command, **_: run_once(*command)))
    nothing = tmp_path / "none.toml"
    nothing.write_text("")
    assert audit.main(path=nothing) == 1
    assert f"idna {metadata.version('idna')}: CVE-2026-0001, fixed in 9999" in capsys.readouterr().err
    assert {"idna", "prefect", "mlflow", "torch", "boto3"} <= requested

    today = date(2026, 11, 25)
    assert audit.main(today, accept(tmp_path / "a.toml", "2026-12-31")) == 0
    assert "(1 accepted" in capsys.readouterr().err
    assert audit.main(today, accept(tmp_path / "a.toml", "2026-11-24")) == 1
    assert "was accepted until 2026-11-24: review it again" in capsys.readouterr().err


def test_audit_is_skipped_with_a_warning_if_the_service_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PAIRMILL_OSV_URL", "http://127.0.0.1:9")
    assert audit.main() == 0
    assert "AUDIT SKIPPED" in capsys.readouterr().err
