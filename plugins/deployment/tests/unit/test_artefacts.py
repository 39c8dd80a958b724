import httpx
import pytest

from dataops.escaping import escape_controls
from flows.records import Attempt, RunRecord, StageRun
from plugins.deployment import artefacts
from tasks.checks.check import CheckReport, CheckResult
from tests.hostile_text import HOSTILE_MARKDOWN, Page
from tests.live_runs import build_live_run, build_plan


def build_record(**more):
    stages = [StageRun(stage="extract", key="a" * 16, state="Completed", seconds=1.5)]
    config = {"name": "demo", "store": {"uri": "s3://user:hunter2@bucket"}, "filter": {"note": "``` <script>"}}
    return RunRecord.model_validate(
        {"run_id": "demo-1", "name": "demo", "created_at": "", "config": config, "stages": stages} | more
    )


def test_card_of_a_failed_run_shows_its_error_as_text():
    from markdown_it import MarkdownIt

    attempt = Attempt(started_at="", host="h", pid=1, error=f"JobFailed: {HOSTILE_MARKDOWN} s3://u:hunter2@bucket")
    card = artefacts.render_card(build_record(state="failed", attempts=[attempt], stages=[]), {})
    assert {*Page(MarkdownIt("commonmark", {"html": True}).render(card)).tags} <= {"p", "strong", "code"}
    assert "hunter2" not in card
    assert "`pairmill rerun demo-1`" in card


@pytest.mark.parametrize("text", [HOSTILE_MARKDOWN, "a\\|b | c \\\nd", "max_host_share: 12% of_all ~x~ \\"])
def test_checks_are_a_table_whose_cells_show_their_text(text):
    from markdown_it import MarkdownIt

    result = CheckResult(check="max_rows", level="block", state="failed", bound=1, text=text)
    table = artefacts.render_checks(CheckReport(dataset="d", last=None, last_run=None, results=[result, result]))
    page = MarkdownIt("gfm-like", {"linkify": False}).render(table)
    row = ["tr", "td", "td", "td"]
    assert Page(page).tags == ["table", "thead", "tr", "th", "th", "th", "tbody", *row, *row]
    assert "max_rows blocks " + " ".join(escape_controls(text).split()) in " ".join(Page(page).text.split())


def test_config_is_shown_without_credentials_as_one_block_of_code():
    text = artefacts.render_config(build_record().config)
    assert "hunter2" not in text
    assert text.count("```") == 2
    assert '"name": "demo"' in text


def test_progress_is_one_artefact_that_a_lost_server_does_not_fail(tmp_path, monkeypatch, caplog):
    sent = []

    def update(artefact, percent, *, description):
        sent.append((artefact, percent))
        if len(sent) == 2:
            raise httpx.ConnectError("down")

    monkeypatch.setattr(artefacts, "create_markdown_artifact", lambda *_, key, **__: key)
    monkeypatch.setattr(artefacts, "create_progress_artifact", lambda *_, **__: "one")
    monkeypatch.setattr(artefacts, "update_progress_artifact", update)
    shown = artefacts.Artefacts(build_live_run(tmp_path))
    shown.progress(1, 1, "before it exists")
    shown.begin()
    shown.stage_started(build_plan("train"))
    for _ in range(3):
        shown.progress(1, 1, "loss 4.1")
    assert sent == [("one", 100.0)] * 2
    assert "no more will be sent: ConnectError: down" in caplog.text


@pytest.mark.parametrize("line", [HOSTILE_MARKDOWN, "\x1b[31mred", "host http://user:hunter2@evil.example"])
def test_progress_artefacts_show_a_line_as_text(line, tmp_path, monkeypatch):
    from markdown_it import MarkdownIt

    descriptions = []
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
