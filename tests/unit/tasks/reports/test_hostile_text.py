"""Hostile names and captions in descriptions, pages, figures and Prefect artefacts. Jobs get no secret."""

import os
import sys

import pytest

from tasks.engine.subprocess_job import run_job
from tests.hostile_text import HOSTILE_MARKDOWN as HOSTILE
from tests.hostile_text import Page
from tests.live_runs import build_live_run


@pytest.mark.parametrize("line", [HOSTILE, "\x1b[31mred", "host http://user:hunter2@evil.example"])
def test_progress_artefacts_show_a_line_as_text(line, tmp_path, monkeypatch):
    from markdown_it import MarkdownIt

    from flows.listeners import artefacts

    descriptions: list[str] = []
    for kind in ("markdown", "progress"):
        monkeypatch.setattr(artefacts, f"create_{kind}_artifact", lambda *_, **__: "one")
    monkeypatch.setattr(artefacts, "update_progress_artifact", lambda *_, description: descriptions.append(description))
    shown = artefacts.Artefacts(build_live_run(tmp_path))
    shown.begin()
    shown.progress(1, 2, line)
    tags = Page(MarkdownIt("commonmark", {"html": True}).render(descriptions[0]))
    assert tags.tags == ["p"]
    assert not set(descriptions[0]) & set("\x1b\n")
    assert "hunter2" not in descriptions[0]


def test_job_gets_no_secret_and_no_name_that_is_not_allowed(tmp_path, monkeypatch):
    """tests/unit/dataops/test_job_environment.py has the names."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-key")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:planted-password@h/d")
    monkeypatch.setenv("HAUSMEISTER", "planted-secret-of-an-invented-name")
    monkeypatch.setenv("NCCL_DEBUG", "planted-setting")
    monkeypatch.setenv("CHOSEN", "planted-chosen")
    monkeypatch.setenv("PAIRMILL_JOB_ENVIRONMENT", "CHOSEN")
    (tmp_path / "show.py").write_text("import os\nprint(dict(os.environ))\n")
    lines: list[str] = []
    run_job("show", {}, tmp_path / "job", root=tmp_path, on_line=lines.append)
    assert "planted-setting" in lines[0]
    assert "planted-chosen" in lines[0]
    for path in (tmp_path / "job").iterdir():
        assert "planted-secret" not in path.read_text()
        assert "planted-password" not in path.read_text()
    assert os.environ["AWS_SECRET_ACCESS_KEY"]
    assert sys.executable
