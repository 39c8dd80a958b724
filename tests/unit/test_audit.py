"""The audit of dependencies, on what pip-audit prints; `make audit` runs the real one."""

import json
from datetime import date
from types import SimpleNamespace

import pytest

from tests import audit

FOUND = {"id": "GHSA-test-test-test", "aliases": ["CVE-2026-0001"], "fix_versions": ["9999"]}
REPORT = {"dependencies": [{"name": "idna", "version": "1", "vulns": [FOUND]}, {"name": "torch", "version": "2"}]}
UNREACHED = "requests.exceptions.ConnectionError: Max retries exceeded"


@pytest.mark.parametrize(
    ("until", "out", "code", "message"),
    [
        (None, json.dumps(REPORT), 1, "idna 1: GHSA-test-test-test, fixed in 9999"),
        ("2026-12-31", json.dumps(REPORT), 0, "(1 accepted"),
        ("2026-11-24", json.dumps(REPORT), 1, "was accepted until 2026-11-24: review it again"),
        (None, "", 0, "AUDIT SKIPPED"),
        (None, '{"dependencies": []}', 1, "pip-audit found no package to audit"),
    ],
)
def test_audit_fails_until_an_advisory_is_accepted_and_again_after_its_date(
    tmp_path, monkeypatch, capsys, until, out, code, message
):
    accepted = f'[[accepted]]\nid = "CVE-2026-0001"\nuntil = {until}\nreason = "it gets no names from outside"\n'
    (tmp_path / "accepted.toml").write_text(accepted if until else "")
    done = SimpleNamespace(stdout=out, stderr=UNREACHED)
    monkeypatch.setattr(audit, "subprocess", SimpleNamespace(run=lambda *_, **__: done))
    assert audit.main(date(2026, 11, 25), tmp_path / "accepted.toml") == code
    assert message in capsys.readouterr().err
