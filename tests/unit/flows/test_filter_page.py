"""`pairmill show --page`: the page of a filter, by its key or by a run."""

from pathlib import Path

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Counts, Draft, Manifest, content_digest
from dataops.store import FolderStore, Store
from flows.filter_page import write_filter_page
from flows.runs import RunRecord, StageRun


def snapshot(store: Store, stage: str, key: str) -> None:
    draft = Draft(store, stage, key)
    counts = Counts(input=10, kept=7, dropped={"too_short": 3})
    known = {"stage_version": 1, "inputs": [], "config": {}, "seed": 0, "code": {}, "parts": [], "facts": {}}
    draft.commit(
        Manifest(stage=stage, key=key, counts=counts, content_digest=content_digest([]), created_at="", **known)
    )


def test_the_page_of_a_filter_by_its_key_or_by_a_run(tmp_path: Path):
    home, store = tmp_path / "home", FolderStore(tmp_path / "store")
    (home / "runs").mkdir(parents=True)
    snapshot(store, "extract", "e" * 16)
    snapshot(store, "filter", "f" * 16)
    record = RunRecord(run_id="a", name="n", created_at="2026-01-01T00:00:00+00:00", config={})
    for stage, key in (("extract", "e" * 16), ("filter", "f" * 16)):
        record.note(StageRun(stage=stage, key=key, state="Completed"))
    record.save(store)
    pages = []
    for name in ("f" * 16, "a"):
        write_filter_page(name, home, store.uri, tmp_path / "page.html")
        pages.append((tmp_path / "page.html").read_text())
    assert pages[0] == pages[1]
    assert "7 of 10 pairs kept" in pages[0]
    with pytest.raises(ConfigError, match="no complete snapshot of the stage filter"):
        write_filter_page("e" * 16, home, store.uri, tmp_path / "page.html")
    with pytest.raises(ConfigError, match="pairmill runs"):
        write_filter_page("nothing", home, store.uri, tmp_path / "page.html")
    with pytest.raises(ConfigError, match="cannot write"):
        write_filter_page("a", home, store.uri, tmp_path / "no" / "page.html")
