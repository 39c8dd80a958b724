import gzip
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

import pytest

from benchmarks.plan import read_costs
from dataops.errors import ConfigError
from dataops.formatting import format_bytes
from dataops.snapshot import Counts, Draft, Input, Part, load_manifest
from dataops.store import open_store
from flows.app import run_command
from flows.commands.plan import format_seconds, total_lines
from flows.config import RunConfig
from flows.planning.costs import load_costs
from flows.planning.duration import START_CPU_SECONDS, START_SECONDS, Machine, measure_machine
from flows.planning.estimate import Estimate, estimate_stage
from flows.planning.history import Earlier, History
from flows.planning.plan import RunPlan, plan_run
from flows.planning.reasons import Wanted, choose_nearest, find_differences
from flows.planning.train_cost import count_flops
from flows.records import StageRun, create_run
from tasks.curate.stage import CURATE
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import Stage, make, plan
from tasks.extract.stage import EXTRACT
from tasks.filter.stage import FILTER
from tasks.pack.stage import PACK
from tasks.train.stage import TRAIN
from tests.inline_executor import InlineExecutor
from tests.manifests import build_manifest

ROWS = 400


def write_list(path: Path, rows: int) -> None:
    lines = [f"https://a.test/{n}.jpg,a red bird number {n}" for n in range(rows)]
    path.write_text("\n".join(["url,caption", *lines, ""]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, in which a run of two stages is complete."""
    folder = tmp_path_factory.mktemp("made")
    write_list(folder / "a.csv", ROWS)
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
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def config_of(folder: Path, name: str = "birds", **tables) -> RunConfig:
    values = {
        "name": name,
        "store": {"uri": str(folder / "store")},
        "source": {"kind": "pairs", "paths": [str(folder / "*.csv")]},
        "download": {"contact": "mailto:us@example.org"},
        "execution": {"workers": 2},
    }
    return RunConfig.model_validate(values | tables)


def plan_of(folder: Path, name: str = "birds", *, until: str | None = None, force=(), **tables) -> RunPlan:
    return plan_run(config_of(folder, name, **tables), folder, 2, until=until, force=force)


def why(found: RunPlan) -> dict[str, tuple[str, list[str]]]:
    return {one.stage: (one.action, one.why) for one in found.stages}


def test_complete_stages_are_reused_and_the_next_is_made(folder: Path):
    found = plan_of(folder, until="download")
    assert why(found) == {
        "extract": ("reuse", []),
        "filter": ("reuse", []),
        "download": ("make", ["no earlier snapshot"]),
    }
    assert found.stages[2].key is not None
    assert found.stages[2].estimate.rows == found.stages[1].estimate.kept == ROWS


def test_reason_is_the_part_of_the_key_that_differs(folder: Path):
    found = why(plan_of(folder, filter={"min_words": 3, "languages": ["en"]}, train={"epochs": 2}))
    assert found["filter"] == ("make", ["filter.min_words: 1 -> 3", 'filter.languages: [] -> ["en"]'])
    assert found["download"] == ("make", ["filter is made first", "no earlier snapshot"])
    assert found["evaluate"][1][0] == "train, pack are made first"
    assert why(plan_of(folder, seed=3, until="filter"))["filter"][1][-1] == "seed: 0 -> 3"
    write_list(folder / "b.csv", 100)
    found = plan_of(folder, until="filter")
    assert why(found)["extract"][1] == ["new source: b.csv"]
    assert (found.stages[0].extracted_before, found.stages[0].files) == (1, 2)
    assert found.stages[0].estimate.rows == ROWS + 100
    assert why(plan_of(folder, until="extract", force=("extract",)))["extract"] == ("make", ["--force"])


def test_deleted_snapshot_and_damaged_part_are_reasons(folder: Path):
    keys = {one.stage: one.key for one in plan_of(folder, until="filter").stages}
    (folder / "store" / "filter" / str(keys["filter"]) / "part-00000.parquet").write_bytes(b"x")
    (action, (reason,)) = why(plan_of(folder, until="filter"))["filter"]
    assert (action, reason.partition(":")[0]) == ("make", "its snapshot is damaged")
    shutil.rmtree(folder / "store" / "filter")
    assert why(plan_of(folder, until="filter"))["filter"] == ("make", ["its snapshot was deleted"])


def test_finished_tasks_of_an_unfinished_attempt_are_kept(folder: Path):
    key = str(plan_of(folder, until="extract").stages[0].key)
    manifest = load_manifest(open_store(str(folder / "store")), "extract", key)
    assert manifest is not None
    (folder / "store" / "extract" / key / "manifest.json").unlink()
    shutil.rmtree(folder / "store" / "extract" / "by-source")
    draft = Draft(open_store(str(folder / "store")), "extract", key)
    whole = plan_of(folder, until="extract").stages[0].estimate
    draft.store.put(
        draft.scratch("extract-00000.json"),
        json.dumps(
            {
                "task": "extract-00000",
                "parts": [part.model_dump() for part in manifest.named("part-")],
                "counts": manifest.counts.model_dump(),
            }
        ).encode(),
    )
    (found,) = plan_of(folder, until="extract").stages
    assert (found.action, found.finished_tasks, found.why) == ("resume", 1, ["an attempt is unfinished"])
    assert 0 < found.estimate.seconds < whole.seconds


def test_plan_writes_nothing(folder: Path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    plan_of(folder, filter={"min_words": 3})
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    "command",
    [["plan"], ["run", "--dry-run"], ["config", "show"], ["backfill", "--dry-run", "--each", "seed=1"]],
    ids=lambda command: command[0],
)
def test_no_file_is_written_before_the_first_run(command: list[str], tmp_path: Path, monkeypatch, capsys):
    """Neither the home nor the store is there afterwards, wherever the store is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    write_list(tmp_path / "a.csv", 3)
    for number, store in enumerate((".pairmill/store", "home/store", "other/deep/store")):
        (tmp_path / f"{number}.toml").write_text(
            f'name = "birds"\nstore.uri = "{tmp_path / store}"\nregister.model_name = "birds"\n'
            '[source]\nkind = "pairs"\npaths = ["a.csv"]\n[download]\ncontact = "mailto:us@example.org"\n'
        )
    before = sorted(tmp_path.rglob("*"))
    for number in range(3):
        assert run_command([command[0], *command[1:], f"{number}.toml"]) == 0, capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_training_on_several_datasets_sees_the_pairs_of_all(folder: Path):
    store = open_store(str(folder / "store"))
    draft = Draft(store, "pack", "b" * 16)
    draft.commit(build_manifest("pack", [], key=draft.key, counts=Counts(input=1000, kept=1000)))
    alone = {one.stage: one.estimate.rows for one in plan_of(folder).stages}
    tables = [{"weight": 1}, {"key": "b" * 16, "weight": 1}]
    mixed = {one.stage: one.estimate.rows for one in plan_of(folder, train={"dataset": tables}).stages}
    assert mixed["train"] == alone["train"] + 1000
    assert mixed["pack"] == alone["pack"]


def test_earlier_run_predicts_the_time_of_more_rows(folder: Path):
    write_list(folder / "a.csv", 10 * ROWS)
    found = plan_of(folder, until="download").stages
    extract, filtered, download = (one.estimate for one in found)
    assert extract.rows == 10 * ROWS
    assert 4.0 < extract.seconds <= 40.0
    assert filtered.basis[0].startswith("run birds-")
    assert filtered.rows == filtered.kept == 10 * ROWS, "as many are kept as before"
    assert 6.0 < filtered.seconds <= 60.0
    assert download.basis == ["measured costs"]
    assert download.web_bytes > 0


def earlier(
    rows: int, seconds: float, workers: int = 2, cpu: float | None = None, stage: str = "filter", **more
) -> Earlier:
    counts = {"input": rows, "kept": rows // 2, "dropped": {"x": rows - rows // 2}}
    return Earlier(build_manifest(stage, counts=counts, **more), "birds-1", True, seconds, workers, cpu)


def estimate(rows: float, runs: list[Earlier], workers: int = 2, stage: Stage = FILTER, *, is_remote=False, **more):
    values = {"name": "a", "source": {"kind": "pairs", "paths": ["a"]}} | more.pop("tables", {})
    options = {"machine": Machine(workers), "fetched_rows": rows, "is_remote": is_remote} | more
    return estimate_stage(stage, RunConfig.model_validate(values), rows, runs, **options)


def test_two_runs_give_a_constant_and_a_time_for_each_row():
    runs = [earlier(1_000_000, 13.0), earlier(200_000, 5.0)]
    assert estimate(10_000_000, runs).seconds == pytest.approx(103.0)
    assert estimate(10_000_000, runs, workers=4).seconds == pytest.approx(53.0)
    assert estimate(10_000_000, runs).kept == 5_000_000
    assert estimate(10_000_000, runs[:1]).seconds == pytest.approx(2.5 + 10.5 * 10, rel=0.01)


@pytest.mark.parametrize("runs", [[earlier(10_000, 2.6)], [earlier(10_000, 2.6), earlier(1000, 2.55)]])
def test_a_run_that_mostly_started_says_nothing_about_the_cost_of_a_row(runs: list[Earlier]):
    measured = estimate(10_000_000, []).seconds - START_SECONDS["filter"]
    assert estimate(10_000_000, runs).seconds == pytest.approx(2.6 + measured, rel=0.02)


def test_cpu_time_of_earlier_runs_predicts_that_of_more_rows_and_the_wall_time_of_an_idle_machine():
    runs = [earlier(1_000_000, 90.0, cpu=18.0), earlier(200_000, 40.0, cpu=5.2)]
    found = estimate(10_000_000, runs)
    assert found.cpu_seconds == pytest.approx(162.0)
    assert 80 < found.seconds < 95, "the machine was busy: the wall times say nothing"
    assert found.basis == ["run birds-1 by its CPU time, as its machine was busy"]
    idle = estimate(10_000_000, [earlier(1_000_000, 10.0, cpu=18.0)])
    assert idle.seconds == pytest.approx(2.5 + 7.5 * 10, rel=0.01)
    remote = [replace(one, is_remote=True) for one in runs]
    assert estimate(10_000_000, remote).seconds == pytest.approx(90 - 62.5 + 625, rel=0.01), "S3 may be slow"


def test_work_is_distributed_over_as_many_workers_as_there_are_tasks():
    one, many = (estimate(4_000_000, [], 16, EXTRACT, files=files) for files in (1, 16))
    work = one.seconds - START_SECONDS["extract"]
    assert work == pytest.approx(one.cpu_seconds - START_CPU_SECONDS["extract"], rel=0.01)
    assert many.seconds < 0.2 * one.seconds
    assert many.cpu_seconds == one.cpu_seconds
    assert estimate(100_000, [], 16).seconds == estimate(100_000, [], 1).seconds, "filter has one slice"


@pytest.mark.parametrize("side", [64, 256, 512])
def test_bytes_of_a_dataset_are_those_of_its_images(side: int):
    tables = {"download": {"image_size": side, "contact": "mailto:us@example.org"}}
    raw, packed = (estimate(10_000, [], 2, stage, tables=tables) for stage in (DOWNLOAD, PACK))
    assert packed.stored_bytes == pytest.approx(10_000 * (25_000 * (side / 256) ** 2 + 3000))
    assert raw.stored_bytes == pytest.approx(0.75 * packed.stored_bytes)
    assert estimate(10_000, [], 2, PACK, image_bytes=7000.0).stored_bytes == 70_000_000


def test_a_model_has_as_many_bytes_as_before_whatever_the_rows():
    parts = [Part(name="model.safetensors", rows=0, bytes=10**8, sha256="")]
    runs = [earlier(1000, 60.0, stage="train", parts=parts, config={"epochs": 2})]
    assert estimate(1_000_000, runs, 2, TRAIN).stored_bytes == 10**8


def test_slow_machine_makes_the_measured_costs_higher(folder: Path):
    store = open_store(str(folder / "store"))
    (name,) = store.names("runs")
    record = json.loads(store.read(name))
    history = History(store, "birds")
    assert measure_machine(history, 2) == Machine(2)
    for run in record["stages"]:
        run["cpu_seconds"] = 20.0
    store.put(name, json.dumps(record).encode())
    assert measure_machine(History(store, "birds"), 2) == Machine(2), "400 rows take no time that can be compared"
    cost = load_costs().cpu_of_row["filter"]
    with patch.object(Earlier, "rows", 1_000_000):
        assert measure_machine(History(store, "birds"), 2).slowness == pytest.approx(
            ((20 - 2.0) / (1e6 * cost) + (20 - 1.0) / (1e6 * load_costs().cpu_of_row["extract"])) / 2
        )
        record["attempts"][0]["host"] = "another"
        store.put(name, json.dumps(record).encode())
        assert measure_machine(History(store, "birds"), 2) == Machine(2)
    slow = estimate(1_000_000, [], machine=Machine(2, 2.0))
    assert slow.cpu_seconds - 2.0 == pytest.approx(2 * (estimate(1_000_000, []).cpu_seconds - 2.0))


def test_without_a_run_the_measured_costs_count_and_requests_cost_money_on_s3_only():
    local, remote = estimate(10_000_000, []), estimate(10_000_000, [], is_remote=True)
    assert local.seconds == pytest.approx(46.4, rel=0.25), (
        "measured on two cores: benchmarks/results/scale-2026-11-25.json"
    )
    assert (local.reads, local.writes) == (0, 0)
    assert remote.reads > 1000
    assert remote.dollars > local.dollars > 0


def test_costs_of_the_package_are_those_of_the_kept_results():
    assert asdict(load_costs()) == asdict(read_costs())


def test_differences_name_each_part_of_a_key():
    inputs = [Input(stage="source", key=key, digest=key) for key in ("a", "b")]
    found = build_manifest(
        "filter",
        inputs=[*inputs, Input(stage="extract", key="1" * 16, digest="x")],
        config={"dedupe": ["uid"], "retry": {"rounds": 1}, "rules": [{"min": 1}], "gone": 1},
    )
    wanted = Wanted(
        "filter",
        2,
        {"dedupe": ["uid", "url"], "retry": {"rounds": 2}, "rules": [{"min": 3, "max": None}], "new": None},
        7,
        [inputs[0].model_copy(update={"digest": "other"}), Input(stage="extract", key="2" * 16, digest="y")],
        "filter",
    )
    assert find_differences(wanted, found) == [
        'filter.dedupe: ["uid"] -> ["uid", "url"]',
        "filter.retry.rounds: 1 -> 2",
        "filter.rules.0.min: 1 -> 3",
        "filter.gone: 1 -> not set",
        "seed: 0 -> 7",
        "version of filter: 1 -> 2",
        f"input extract: {'1' * 16} -> {'2' * 16}",
        "changed source: a",
        "removed source: b",
    ]
    packs = [Input(stage="pack", key=key * 16, digest=key) for key in "abc"]
    mixed = build_manifest("train", inputs=packs[:2], config={"dataset": [1, 2]})
    again = Wanted("train", 1, {"dataset": [1, 2]}, 0, packs[:2], "train")
    assert find_differences(again, mixed) == []
    assert find_differences(replace(again, inputs=packs[1:2]), mixed) == [], "the run's own dataset is made first"
    assert find_differences(replace(again, inputs=[packs[0], packs[2]]), mixed) == [
        f"input pack: {'b' * 16} -> {'c' * 16}"
    ]
    near = found.model_copy(update={"seed": 7})
    assert choose_nearest(wanted, [found, near]) is near
    assert choose_nearest(replace(wanted), []) is None


@pytest.mark.parametrize(
    ("model", "published"),
    [("ViT-B-32", 8.82e9), ("ViT-B-16", 35.13e9), ("ViT-L-14", 162.03e9), ("RN50", 12.22e9), ("RN101", 19.61e9)],
)
def test_operations_of_an_image_are_those_that_open_clip_publishes(model: str, published: float):
    """Source: open_clip, docs/model_profile.csv, image_gmacs, twice: a multiplication and an addition."""
    path = Path(__file__).parents[4] / "configs" / "models" / f"{model}.json"
    config = json.loads(path.read_text())
    without_text = {**config, "text_cfg": {**config["text_cfg"], "layers": 0}}
    assert count_flops(without_text) == pytest.approx(published, rel=0.12)


def test_command_prints_the_plan_and_dry_run_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PAIRMILL_HOME", str(folder))
    (folder / "c.toml").write_text(
        'name = "birds"\nstore.uri = "store"\n[source]\nkind = "pairs"\npaths = ["*.csv"]\n'
        '[download]\ncontact = "mailto:us@example.org"\n[execution]\nworkers = 2\nprices.core_hour = 3600\n'
    )
    assert run_command(["plan", "c.toml", "--until", "filter"]) == 0
    assert "nothing to do: every stage is reused" in capsys.readouterr().out
    options = ["c.toml", "--set", "filter.min_words=3", "--until", "filter"]
    assert run_command(["plan", *options]) == 0
    printed = capsys.readouterr().out
    assert "filter.min_words: 1 -> 3" in printed
    assert "~6 s with 2 workers" in printed
    assert "~$12.00" in printed
    assert run_command(["run", "--dry-run", *options]) == 0
    assert capsys.readouterr().out == printed
    assert run_command(["plan", *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["total"]["seconds"] == pytest.approx(6.0)
    assert [one["action"] for one in result["stages"]] == ["reuse", "make"]
    assert run_command(["plan", "c.toml", "--set", "filter.min_word=3"]) == ConfigError.exit_code


def test_quantities_have_units_that_fit():
    assert [format_seconds(value) for value in (0.4, 119, 600, 7200)] == ["0 s", "119 s", "10 min", "2.0 h"]
    assert [format_bytes(value, "B") for value in (12, 1500, 2.5e9, 7e15)] == ["12 B", "1.5 kB", "2.5 GB", "7,000.0 TB"]


def test_crawl_without_history_takes_its_delays():
    source = {
        "kind": "site",
        "start": ["https://a.test/"],
        "contact": "mailto:a@b.test",
        "max_pages": 200,
        "delay": 2.0,
    }
    config = RunConfig.model_validate({"name": "a", "source": source})
    found = estimate_stage(EXTRACT, config, 2000, [], machine=Machine(2), fetched_rows=0, is_remote=False)
    assert found.seconds == pytest.approx(400, rel=0.02)


SITE = {"kind": "site", "start": ["https://a.test/"], "contact": "mailto:a@b.test", "max_pages": 200}


def test_a_first_crawl_has_at_most_the_rows_of_max_pages(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    (tmp_path / "c.toml").write_text(
        f'name = "a"\nstore.uri = "{tmp_path / "store"}"\n[source]\nkind = "site"\nstart = ["https://a.test/"]\n'
        'contact = "mailto:a@b.test"\nmax_pages = 200\n[filter]\nlanguages = ["en"]\n'
    )
    assert run_command(["plan", "c.toml", "--until", "filter"]) == 0
    printed = capsys.readouterr().out
    assert "≤ 2,000" in printed
    assert "~" not in printed
    assert "extract crawls these sites for the first time" in printed
    assert "at most 204 s with" in " ".join(printed.split()) or "at most 3 min with" in " ".join(printed.split())
    assert run_command(["plan", "c.toml", "--until", "filter", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [one["estimate"]["at_most"] for one in result["stages"]] == [True, True]
    assert result["total"]["at_most"] is True


@pytest.mark.parametrize(
    ("asked", "was", "now", "rows", "at_most"),
    [(30, 200, 200, 450, False), (30, 200, 10, 150, False), (200, 200, 200, 450, False), (200, 200, 800, 1800, True)],
    ids=["small site", "fewer pages", "as many", "more pages"],
)
def test_a_later_crawl_has_the_rows_of_the_one_before(folder: Path, asked, was, now, rows, at_most):
    store = open_store(str(folder / "store"))
    crawl = build_manifest(
        "extract",
        key="c" * 16,
        counts=Counts(input=450, kept=450),
        inputs=[Input(stage="source", key="https://a.test/", digest="old")],
        config={**SITE, "max_pages": was},
        facts={"files": 3, "crawl": {"asked": asked, "bytes": 9_000_000}},
    )
    Draft(store, "extract", crawl.key).commit(crawl)
    record = create_run(config_of(folder, source={**SITE, "max_pages": was}), folder)
    record.set_stage(StageRun(stage="extract", key=crawl.key, state="Completed", counts=crawl.counts))
    record.save(store)
    found = plan_of(folder, until="extract", source={**SITE, "max_pages": now, "edition": "2"}).stages[0].estimate
    assert (found.rows, found.at_most) == (rows, at_most)
    assert found.web_bytes == 9_000_000 * rows / 450
    other = plan_of(folder, until="extract", source={**SITE, "start": ["https://b.test/"]}).stages[0].estimate
    assert (other.rows, other.at_most) == (2000, True), "another site"


def test_images_that_a_model_captions_are_counted():
    recaption = {"endpoint": "http://127.0.0.1:9/v1", "model": "toy", "requests_per_second": 2}
    values = {"name": "a", "source": {"kind": "pairs", "paths": ["a.csv"]}, "curate": {"recaption": recaption}}
    options = {"machine": Machine(2), "fetched_rows": 1000, "is_remote": False}
    found = estimate_stage(CURATE, RunConfig.model_validate(values), 1000, [], **options)
    assert found.model_requests == found.kept
    assert found.seconds >= found.kept / 2
    recaption["max_images"] = 30
    limited = estimate_stage(CURATE, RunConfig.model_validate(values), 1000, [], **options)
    assert limited.model_requests == 30
    assert dict(total_lines(limited, 2))["of a model"] == "at most ~30 images"
    assert "of a model" not in dict(total_lines(Estimate(), 2))


def test_rows_of_an_archive_are_its_image_links(tmp_path: Path):
    pages = b"".join(b'<img src="%d.jpg" alt="a bird"><p>text</p>' % number for number in range(500))
    members = [gzip.compress(b"WARC/1.0\r\n\r\n" + pages) for _ in range(4)]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    found = plan_of(tmp_path, until="extract", source={"kind": "warc", "paths": [str(tmp_path / "*.warc.gz")]})
    assert found.stages[0].estimate.rows == pytest.approx(2000, rel=0.01)
    (tmp_path / "a.warc.gz").write_bytes(members[0] + b"\x1f\x8bdamaged" * 100)
    found = plan_of(tmp_path, until="extract", source={"kind": "warc", "paths": [str(tmp_path / "*.warc.gz")]})
    assert found.stages[0].estimate.rows > 0
