"""The table of estimates and real values in docs/plan.md."""

from pathlib import Path

import pytest

from benchmarks.estimates import table
from benchmarks.estimates.cases import Compared, compare
from benchmarks.estimates.table import BEGIN, END, replace_table, write_table
from dataops.snapshot import Draft, Part
from dataops.store import FolderStore
from tests.manifests import build_manifest


def test_a_run_is_compared_by_stage_and_as_a_whole(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for stage, kept in (("extract", 100), ("filter", 40)):
        parts = [Part(name="part-00000", rows=kept, bytes=1000, sha256="")]
        counts = {"input": 100, "kept": kept, "dropped": {"x": 100 - kept}}
        Draft(store, stage, "a" * 16).commit(build_manifest(stage, parts, key="a" * 16, counts=counts))
    common = {"stored_bytes": 500, "cpu_seconds": 3.0, "seconds": 2.0, "at_most": False}
    estimates = [{"kept": 110, **common}, {"kept": 50, **common}]
    names = ("extract", "filter")
    stages = [{"stage": name, "estimate": one} for name, one in zip(names, estimates, strict=True)]
    plan = {"stages": stages, "total": {"at_most": False}}
    run = {"state": "Completed", "key": "a" * 16, "cpu_seconds": 2.0, "seconds": 4.0}
    found = list(compare("birds", "none", plan, {name: {"stage": name, **run} for name in names}, store))
    whole = {one.quantity: (one.estimated, one.real) for one in found if one.stage == "all"}
    assert whole == {"kept": (50, 40), "stored_bytes": (1000, 2000), "cpu_seconds": (6, 4), "seconds": (4, 8)}
    assert {one.error for one in found if one.quantity == "seconds"} == {-0.5}


def test_table_replaces_the_one_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PAGE", tmp_path / "plan.md")
    (tmp_path / "plan.md").write_text(f"before\n{BEGIN}old\n{END}after\n")
    found = [Compared("birds", "none", "filter", "kept", 50, 40), Compared("birds", "none", "filter", "seconds", 2, 4)]
    found.append(Compared("birds", "none", "extract", "kept", 90, 40, at_most=True))
    replace_table(found)
    replace_table(found)
    page = (tmp_path / "plan.md").read_text()
    assert page == f"before\n{BEGIN}\n{write_table(found)}\n{END}after\n"
    assert "\n| birds | none | extract | ≤ 90 / 40 |  |  |  |\n" in page
    assert "\n| birds | none | filter | 50 / 40 (+25%) |  |  | 2.0 s / 4.0 s (-50%) |\n" in page


def test_page_has_the_place_of_the_table() -> None:
    text = table.PAGE.read_text("utf-8")
    assert text.index(BEGIN) < text.index(END)
