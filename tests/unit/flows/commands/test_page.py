"""`pairmill show --page` writes the page of a stage, given by its key or by a run."""

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from flows.commands.show import show_run, show_run_or_key, write_stage_page
from flows.dataset_checks import insert_links
from flows.records import RunRecord, StageRun
from tasks.checks.check import ChecksConfig, check_dataset
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import packed_in, some_pairs


def snapshot(store, stage, key):
    draft = Draft(store, stage, key)
    counts = Counts(input=10, kept=7, dropped={"too_short": 3})
    draft.commit(build_manifest(stage, key=key, counts=counts))


def test_what_has_no_page_is_an_error(tmp_path):
    home, store, page = tmp_path / "home", FolderStore(tmp_path / "store"), tmp_path / "page.html"
    snapshot(store, "filter", "f" * 16)
    snapshot(store, "evaluate", "a" * 16)
    with pytest.raises(ConfigError, match="no complete snapshot of the stages pack, download, filter"):
        write_stage_page("a" * 16, home, store.uri, page)
    with pytest.raises(ConfigError, match="pairmill runs"):
        write_stage_page("nothing", home, store.uri, page)


def test_write_stage_page_of_a_dataset_by_key_or_run(tmp_path, capsys, read_json):
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    store, manifests = packed_in(tmp_path / "store", some_pairs())
    record = RunRecord(run_id="a", name="n", created_at="2026-01-01T00:00:00+00:00", config={})
    for stage in ("filter", "download", "curate", "pack"):
        record.set_stage(StageRun(stage=stage, key=manifests[stage].key, state="Completed"))
    record.save(store)
    page = tmp_path / "page.html"
    for name in (manifests["pack"].key, "a"):
        write_stage_page(name, home, store.uri, page)
        key = manifests["pack"].key
        assert insert_links(store.read(manifests["pack"].path("dataset.html")), key, record) == page.read_bytes()
        assert f"<title>n: dataset {key}</title>" in page.read_text("utf-8")
        assert f"<code>pairmill browse {key}</code>" in page.read_text("utf-8")
        assert "48 × 48</small>" in page.read_text("utf-8"), "the size in the shard"
        assert "× 200</small>" not in page.read_text("utf-8"), "that of the original"
    record.model_version = "models:/<m>/1"
    record.model_links = {"model version": "http://127.0.0.1:5/#/m", "run": "javascript:alert(1)"}
    record.save(store)
    write_stage_page("a", home, store.uri, page)
    assert '<a href="http://127.0.0.1:5/#/m">Model models:/&lt;m&gt;/1</a>' in page.read_text("utf-8")
    assert "javascript" not in page.read_text("utf-8")
    record.checks = check_dataset(ChecksConfig.model_validate({"min_rows": 1000}), manifests)
    record.save(store)
    for name in (manifests["pack"].key, "a"):
        write_stage_page(name, home, store.uri, page)
        assert "; the minimum is 1,000</td>" in page.read_text("utf-8")
        show_run_or_key(name, home, store.uri, as_json=False)
        assert "min_rows (warning): the dataset has " in capsys.readouterr().out
        show_run_or_key(name, home, store.uri, as_json=True)
        assert read_json()["checks"] == record.checks.model_dump(mode="json")
    with pytest.raises(ConfigError, match="cannot write"):
        write_stage_page("a", home, store.uri, tmp_path / "no" / "page.html")
    snapshot(store, "pack", "0" * 16)
    with pytest.raises(ConfigError, match="earlier version"):
        write_stage_page("0" * 16, home, store.uri, page)


def test_show_states_how_many_unreadable_files_it_does_not_list(tmp_path, capsys):
    store, key = FolderStore(tmp_path), "e" * 16
    facts = {"files": 30, "failed_files": [(f"{number}.gz", "damaged") for number in range(25)]}
    Draft(store, "extract", key).commit(build_manifest("extract", key=key, facts=facts))
    record = RunRecord(run_id="a", name="n", created_at="2026-01-01T00:00:00+00:00", config={})
    record.set_stage(StageRun(stage="extract", key=key, state="Completed"))
    show_run(record, store)
    assert f"and 5 more files: `pairmill show {key} --json` lists all 25" in capsys.readouterr().out
