import shutil

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Counts, Draft
from dataops.store import open_store
from flows.app import run_command
from flows.config import RunConfig
from flows.planning.plan import plan_run
from flows.records import StageRun, create_run
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tasks.filter.stage import FILTER
from tests.archived_images import http, record, write_archive
from tests.inline_executor import InlineExecutor
from tests.manifests import build_manifest

ROWS = 400


def write_pages(path, rows):
    pages = [f'<img src="https://a.test/{n}.jpg" alt="a red bird number {n}">'.encode() for n in range(rows)]
    records = [record(f"http://a.test/{n}", http(page, Content_Type="text/html")) for n, page in enumerate(pages)]
    write_archive(path, records)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a store, in which a run of two stages is complete."""
    folder = tmp_path_factory.mktemp("made")
    write_pages(folder / "a.warc", ROWS)
    config = config_of(folder)
    record, store = create_run(config, folder), open_store(config.store.uri)
    context, manifests = Context(store, folder, 2, pool=InlineExecutor()), []
    for stage, table, seconds in ((EXTRACT, "source", 4.0), (FILTER, "filter", 6.0)):
        manifest = make(plan(stage, config.stage_config(table), 0, manifests, store), context)
        manifests = [manifest]
        run = StageRun(stage=stage.name, key=manifest.key, state="Completed", seconds=seconds, counts=manifest.counts)
        record.set_stage(run)
    record.begin()
    record.end("completed")
    record.save(store)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def config_of(folder, name="birds", **tables):
    values = {
        "name": name,
        "store": {"uri": str(folder / "store")},
        "source": {"kind": "warc", "paths": [str(folder / "*.warc")]},
        "download": {"contact": "mailto:us@example.org"},
        "execution": {"workers": 2},
    }
    return RunConfig.model_validate(values | tables)


def plan_of(folder, name="birds", *, until=None, force=(), **tables):
    return plan_run(config_of(folder, name, **tables), folder, 2, until=until, force=force)


def why(found):
    return {one.stage: (one.action, one.why) for one in found.stages}


def test_complete_stages_are_reused_and_the_next_is_made(folder):
    found = plan_of(folder, until="download")
    assert why(found) == {
        "extract": ("reuse", []),
        "filter": ("reuse", []),
        "download": ("make", ["no earlier snapshot"]),
    }
    assert found.stages[2].key is not None
    assert found.stages[2].estimate.rows == found.stages[1].estimate.kept == ROWS


def test_reason_is_the_part_of_the_key_that_differs(folder):
    found = why(plan_of(folder, filter={"min_words": 3, "languages": ["en"]}, train={"epochs": 2}))
    assert found["filter"] == ("make", ["filter.min_words: 1 -> 3", 'filter.languages: [] -> ["en"]'])
    assert found["download"] == ("make", ["filter is made first", "no earlier snapshot"])
    assert found["evaluate"][1][0] == "train, pack are made first"
    assert why(plan_of(folder, seed=3, until="filter"))["filter"][1][-1] == "seed: 0 -> 3"
    write_pages(folder / "b.warc", 100)
    found = plan_of(folder, until="filter")
    assert why(found)["extract"][1] == ["new source: b.warc"]
    assert (found.stages[0].extracted_before, found.stages[0].files) == (1, 2)
    assert found.stages[0].estimate.rows == pytest.approx(ROWS + 100, rel=0.01), "by the bytes of the archives"
    assert why(plan_of(folder, until="extract", force=("extract",)))["extract"] == ("make", ["--force"])


def test_deleted_snapshot_and_damaged_part_are_reasons(folder):
    keys = {one.stage: one.key for one in plan_of(folder, until="filter").stages}
    (folder / "store" / "filter" / str(keys["filter"]) / "part-00000.parquet").write_bytes(b"x")
    (action, (reason,)) = why(plan_of(folder, until="filter"))["filter"]
    assert (action, reason.partition(":")[0]) == ("make", "its snapshot is damaged")
    shutil.rmtree(folder / "store" / "filter")
    assert why(plan_of(folder, until="filter"))["filter"] == ("make", ["its snapshot was deleted"])


@pytest.mark.parametrize("command", [["plan"], ["run", "--dry-run"]], ids=lambda command: command[0])
def test_no_file_is_written_before_the_first_run(command, tmp_path, monkeypatch, capsys):
    """Neither the home nor the store is there afterwards, wherever the store is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    write_pages(tmp_path / "a.warc", 3)
    for number, store in enumerate((".pairmill/store", "home/store", "other/deep/store")):
        (tmp_path / f"{number}.toml").write_text(
            f'name = "birds"\nstore.uri = "{tmp_path / store}"\nregister.model_name = "birds"\n'
            '[source]\nkind = "warc"\npaths = ["a.warc"]\n[download]\ncontact = "mailto:us@example.org"\n'
        )
    before = sorted(tmp_path.rglob("*"))
    for number in range(3):
        assert run_command([command[0], *command[1:], f"{number}.toml"]) == 0, capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def add_run(folder, stage, rows, seconds, name="birds", **tables):
    """Add a run to the store that made one stage, and kept half of its rows."""
    config, store = config_of(folder, name, **tables), open_store(str(folder / "store"))
    counts = Counts(input=rows, kept=rows // 2, dropped={"x": rows - rows // 2})
    draft = Draft(store, stage, f"{rows:016x}")
    draft.commit(
        build_manifest(stage, [], key=draft.key, counts=counts, config=config.stage_config(stage).key_config())
    )
    record = create_run(config, folder)
    record.set_stage(StageRun(stage=stage, key=draft.key, state="Completed", seconds=seconds, counts=counts))
    record.begin()
    record.end("completed")
    record.save(store)


def estimates(found, stage):
    (one,) = (one.estimate for one in found.stages if one.stage == stage)
    return one.rows, one.kept, one.seconds, one.at_most


def test_earlier_runs_predict_rows_and_time(folder):
    assert estimates(plan_of(folder), "download") == (ROWS, None, None, False), "no run has made it"
    assert estimates(plan_of(folder), "curate") == (None, None, None, False)
    add_run(folder, "download", 100, 10.0)
    assert estimates(plan_of(folder), "download") == (ROWS, ROWS / 2, 40.0, True), "the start counts four times"
    assert estimates(plan_of(folder), "curate") == (ROWS / 2, None, None, False)
    add_run(folder, "download", 200, 15.0)
    assert estimates(plan_of(folder), "download") == (ROWS, ROWS / 2, pytest.approx(25.0), False)
    total = plan_of(folder, until="curate").total()
    assert (total["seconds"], total["unknown"]) == (pytest.approx(25.0), ["curate"])


def test_command_prints_the_plan_and_dry_run_is_the_same(folder, monkeypatch, capsys, read_json):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PAIRMILL_HOME", str(folder))
    (folder / "c.toml").write_text(
        'name = "birds"\nstore.uri = "store"\n[source]\nkind = "warc"\npaths = ["*.warc"]\n'
        '[download]\ncontact = "mailto:us@example.org"\n[execution]\nworkers = 2\n'
    )
    assert run_command(["plan", "c.toml", "--until", "filter"]) == 0
    assert "nothing to do: every stage is reused" in capsys.readouterr().out
    options = ["c.toml", "--set", "filter.min_words=3", "--until", "download"]
    assert run_command(["plan", *options]) == 0
    printed = capsys.readouterr().out
    assert "filter.min_words: 1 -> 3" in printed
    assert "total: ~6 s with 2 workers" in printed
    assert "download: not known" in printed
    assert run_command(["run", "--dry-run", *options]) == 0
    assert capsys.readouterr().out == printed
    assert run_command(["plan", *options, "--json"]) == 0
    result = read_json()
    assert result["total"]["seconds"] == pytest.approx(6.0)
    assert [one["action"] for one in result["stages"]] == ["reuse", "make", "make"]
    assert run_command(["plan", "c.toml", "--set", "filter.min_word=3"]) == ConfigError.exit_code
