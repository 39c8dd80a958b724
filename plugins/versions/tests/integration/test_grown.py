"""Versions of a dataset that grows are compared: what only one of them has, and why, also after beginning anew."""

from types import SimpleNamespace

import polars as pl
import pytest

from dataops.store import FolderStore
from flows.listeners.base import StageEnd
from plugins.versions.diff import diff
from plugins.versions.grown import GrownVersion, render_difference
from tasks.growth.versions import Version, find_packs, list_newest, load_version
from tests.growing import NIGHTS, configured, list_uids, run, run_night, web

__all__ = ["web"]  # a fixture
pytestmark = pytest.mark.timeout(300)


def begin_anew(web, folder):
    run(configured(web, folder, grow={"base": 0}), folder)
    store = FolderStore(folder / "store")
    [anew] = list_newest(store)
    return store, anew


def test_difference_of_a_version_that_began_anew_is_that_of_the_uids(web, tmp_path, read_json):
    for number, night in enumerate(NIGHTS, 1):
        run_night(web, tmp_path, number, night)
    store, anew = begin_anew(web, tmp_path)
    grown = load_version(store, anew.line, len(NIGHTS))
    ours, theirs = (list_uids(store, find_packs(store, one)) for one in (grown, anew))
    rows = tmp_path / "rows.parquet"
    diff(grown.name, anew.name, rows=rows, store=store.uri, json=True)
    printed = read_json()
    found = pl.read_parquet(rows)
    assert set(found.filter(change="added")["uid"]) == theirs - ours
    assert set(found.filter(change="removed")["uid"]) == ours - theirs
    assert printed["common"] == len(ours & theirs)
    assert ours - theirs
    assert set(found["reason"]) <= {"near_duplicate", "exact_duplicate"}
    page = render_difference(SimpleNamespace(context=SimpleNamespace(store=store)), grown, anew)
    assert f"**Only in version {anew.number}**: {len(theirs - ours)} pair" in page
    assert "| curate | near\\_duplicate |" in page or "| curate | near_duplicate |" in page
    assert all(uid in page for uid in ours ^ theirs)


def test_a_row_that_a_night_without_a_new_pair_dropped_has_its_reason(web, tmp_path, read_json):
    run_night(web, tmp_path, 1)
    url = NIGHTS[0][0][0].replace("1.png", "1-again.png")
    caption = "A much longer caption of the first drawing of this night, which one run would keep"
    run_night(web, tmp_path, 2, [(url, caption)])
    store, anew = begin_anew(web, tmp_path)
    diff(f"{anew.line}/2", anew.name, store=store.uri, json=True)
    printed = read_json()
    assert printed["added"]["why"] == [{"stage": "curate", "reason": "exact_duplicate", "rows": 1}]
    assert printed["removed"]["rows"] == 1


def test_a_pack_that_a_later_attempt_makes_is_named_with_what_adds_it(web, tmp_path, caplog):
    version, manifests = run_night(web, tmp_path, 1)
    run = SimpleNamespace(
        config=SimpleNamespace(base=Version(line=version.line)),
        context=SimpleNamespace(store=FolderStore(tmp_path / "store")),
        record=SimpleNamespace(version=version.name),
    )
    listener, own = GrownVersion(run), manifests["pack"]
    listener.stage_started(SimpleNamespace(stage=None))
    listener.stage_ended(StageEnd("pack", "Completed", 1.0, own))
    assert "stays without" not in caplog.text
    listener.stage_ended(StageEnd("pack", "Completed", 1.0, own.model_copy(update={"key": "0123456789abcdef"})))
    assert f"{version.name} stays without pack/0123456789abcdef; `pairmill run` of the config with" in caplog.text
    assert "`--set grow.base=0`" in caplog.text


def test_a_stage_after_small_datasets_were_packed_again_is_explained_by_the_last_run(web, tmp_path, caplog):
    version, _ = run_night(web, tmp_path, 1)
    packed = version.model_copy(update={"number": 2, "base": 1, "run_id": ""})
    record = SimpleNamespace(version=None)
    store = FolderStore(tmp_path / "store")
    run = SimpleNamespace(config=SimpleNamespace(base=packed), context=SimpleNamespace(store=store), record=record)
    listener = GrownVersion(run)
    listener.stage_started(SimpleNamespace(stage=SimpleNamespace(name="train")))
    listener.stage_ended(StageEnd("train", "Completed", 1.0, None))
    assert "train was made: run-1, which made version 1, has no snapshot of it" in caplog.text
