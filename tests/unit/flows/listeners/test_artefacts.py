from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dataops.snapshot import Counts, Manifest
from flows.listeners import artefacts
from flows.records import Attempt, RunRecord, StageRun
from tests.hostile_text import HOSTILE_MARKDOWN, Page
from tests.live_runs import build_live_run, build_plan


def build_record(**more: Any) -> RunRecord:
    stages = [StageRun(stage="extract", key="a" * 16, state="Completed", seconds=1.5)]
    config = {"name": "demo", "store": {"uri": "s3://user:hunter2@bucket"}, "filter": {"note": "``` <script>"}}
    return RunRecord.model_validate(
        {"run_id": "demo-1", "name": "demo", "created_at": "", "config": config, "stages": stages} | more
    )


def build_manifest(stage: str, **more: Any) -> Manifest:
    counts = Counts(input=1058, kept=1056, dropped={"tracking": 2})
    return Manifest.model_construct(stage=stage, key="a" * 16, counts=counts, **({"facts": {}} | more))


def test_card_links_to_every_page_and_to_nothing_else():
    links = {"model card": "http://127.0.0.1:5000/#/card", "run": "http://127.0.0.1:5000/#/run", "x": "javascript:1"}
    facts = {"model_uri": "models:/demo/3", "model_name": "demo", "version": "3", "alias": "champion", "gate": "passed"}
    record = build_record(state="completed", model_links=links)
    manifests = {"extract": build_manifest("extract"), "register": build_manifest("register", facts=facts)}
    card = artefacts.render_card(record, manifests)
    assert "[MLflow: model card](http://127.0.0.1:5000/#/card)" in card
    assert "[MLflow: run](http://127.0.0.1:5000/#/run)" in card
    assert "javascript" not in card
    assert "models:/demo/3" in card
    assert f"| extract&emsp; | `{'a' * 16}`&emsp; | Completed&emsp; | 1,058&emsp; | 1,056&emsp; | 1.5&emsp; |" in card
    assert "`pairmill show demo-1`" in card


def test_card_of_a_failed_run_shows_its_error_as_text():
    from markdown_it import MarkdownIt

    attempt = Attempt(started_at="", host="h", pid=1, error=f"JobFailed: {HOSTILE_MARKDOWN} s3://u:hunter2@bucket")
    card = artefacts.render_card(build_record(state="failed", attempts=[attempt], stages=[]), {})
    assert {*Page(MarkdownIt("commonmark", {"html": True}).render(card)).tags} <= {"p", "strong", "code"}
    assert "hunter2" not in card
    assert "`pairmill rerun demo-1`" in card


def test_config_is_shown_without_credentials_as_one_block_of_code():
    text = artefacts.render_config(build_record().config)
    assert "hunter2" not in text
    assert text.count("```") == 2
    assert '"name": "demo"' in text


def test_progress_is_one_artefact_that_a_lost_server_does_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    sent: list[tuple[str, float]] = []

    def update(artefact: str, percent: float, *, description: str) -> None:
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


def test_task_names_name_their_inputs():
    from flows.task_run import label_task

    def label(stage: str, *inputs: tuple[str, str]) -> str:
        named: Any = [SimpleNamespace(stage=one, key=key) for one, key in inputs]
        planned: Any = SimpleNamespace(stage=SimpleNamespace(name=stage), inputs=named)
        return label_task(planned)

    names = ("source_names", "1 files")
    assert label("extract", ("source", "a.warc.gz"), names) == "extract of a.warc.gz"
    files = [("source", f"{letter}.warc.gz") for letter in "abc"]
    assert label("extract", *files, names) == "extract of 3 source files, a.warc.gz to c.warc.gz"
    assert label("pack", ("curate", "1"), ("download", "2")) == "pack of curate/1 + download/2"
    more = [(name, name[0]) for name in ("evaluate", "train", "pack", "curate", "filter")]
    assert label("register", *more) == "register of evaluate/e + train/t + pack/p + 2 more"
    assert "hunter2" not in label("extract", ("source", "https://u:hunter2@host/a.warc.gz"))
