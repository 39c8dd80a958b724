"""Jobs get no secret."""

import os
import sys

from tasks.engine.subprocess_job import run_job


def test_job_gets_no_secret_and_no_name_that_is_not_allowed(tmp_path, monkeypatch):
    """tests/unit/dataops/test_job_environment.py has the names."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-key")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:planted-password@h/d")
    monkeypatch.setenv("HAUSMEISTER", "planted-secret-of-an-invented-name")
    monkeypatch.setenv("NCCL_DEBUG", "planted-setting")
    monkeypatch.setenv("CHOSEN", "planted-chosen")
    monkeypatch.setenv("PAIRMILL_JOB_ENVIRONMENT", "CHOSEN")
    (tmp_path / "show.py").write_text("import os\nprint(dict(os.environ))\n")
    lines = []
    run_job("show", {}, tmp_path / "job", root=tmp_path, on_line=lines.append)
    assert "planted-setting" in lines[0]
    assert "planted-chosen" in lines[0]
    for path in (tmp_path / "job").iterdir():
        assert "planted-secret" not in path.read_text()
        assert "planted-password" not in path.read_text()
    assert os.environ["AWS_SECRET_ACCESS_KEY"]
    assert sys.executable
