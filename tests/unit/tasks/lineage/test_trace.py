"""Where a pair came from and what became of it, over a chain of real snapshots."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Draft, Manifest
from dataops.storage.range_file import RangeFile
from dataops.store import FolderStore
from dataops.trace.targets import Target, image_targets
from flows.commands import trace as flow
from tasks.lineage import search as trace_search
from tasks.lineage.graph import DROPPED, KEPT, Lineage
from tasks.lineage.search import Rows, Search
from tasks.lineage.trace import Trace
from tasks.tracking.registry import Registry
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import chain, jpeg, lost_pairs, packed, pair, some_pairs


def below(store: FolderStore, stage: str, above: Manifest, **facts: Any) -> Manifest:
    """A snapshot without rows that was made of another."""
    draft = Draft(store, stage, f"{stage:0<16}"[:16])
    parts = [draft.put_bytes("made.json", stage.encode())]
    return draft.commit(
        build_manifest(
            stage,
            parts,
            key=draft.key,
            inputs=[above.as_input()],
            config={"model": "tiny"},
            code={"commit": "a" * 40},
            facts=facts,
        )
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[FolderStore, dict[str, Manifest]]:
    folder = tmp_path_factory.mktemp("trace")
    store = FolderStore(folder / "store")
    pairs = some_pairs()
    pairs[5]["phash"] = image_targets(jpeg(5))[1].value
    snapshots = chain(store, [*pairs, *lost_pairs()])
    snapshots["pack"] = packed(store, folder, snapshots, shard_size=6)
    snapshots["train"] = below(store, "train", snapshots["pack"])
    snapshots["evaluate"] = below(store, "evaluate", snapshots["train"])
    facts = {"model_name": "tiny", "version": "3", "gate": "passed", "run_id": "r1"}
    snapshots["register"] = below(store, "register", snapshots["evaluate"], **facts)
    return store, snapshots


@pytest.fixture(params=[True, False], ids=["index", "columns"])
def tracer(made: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Trace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(trace_search, "SEGMENT", 10)
    return Trace(Lineage(made[0]), Search(made[0], make=request.param), Registry())


def test_a_kept_pair_is_followed_from_archive_to_model(tracer: Trace, made: Any) -> None:
    wanted, snapshots = pair(4), made[1]
    told = tracer.pairs([Target("uid", wanted["uid"])])
    (one,) = told["pairs"]
    assert (one["url"], one["caption"], one["source"]) == (wanted["url"], wanted["caption"], wanted["source"])
    (way,) = one["ways"]
    assert [(step["stage"], step["key"], step["verdict"]) for step in way] == [
        (stage, snapshots[stage].key, "kept") for stage in ("extract", "filter", "download", "curate", "pack")
    ]
    assert (way[2]["shard"], way[2]["member"], way[2]["sha256"]) == ("00000.tar", wanted["uid"], wanted["sha256"])
    row = pq.read_table(made[0].local(snapshots["pack"].path(way[4]["part"]))).to_pylist()[way[4]["row"]]
    assert row["uid"] == wanted["uid"]
    (dataset,) = told["datasets"]
    (training,) = dataset["trainings"]
    assert (dataset["key"], dataset["pairs"]) == (snapshots["pack"].key, 1)
    assert training["evaluations"] == [snapshots["evaluate"].key]
    assert [model["uri"] for model in training["models"]] == ["models:/tiny/3"]
    assert "MLFLOW_TRACKING_URI is not set" in told["registry"]


@pytest.mark.parametrize(
    ("number", "stage", "reason"),
    [(100, "extract", "page_opt_out"), (121, "download", "http_404"), (7, "curate", "near_duplicate")],
)
def test_a_dropped_pair_has_its_stage_and_reason(tracer: Trace, number: int, stage: str, reason: str) -> None:
    told = tracer.pairs([Target("url", pair(number)["url"])])
    (one,) = told["pairs"]
    last = one["ways"][0][-1]
    assert (last["stage"], last["verdict"], last["reason"]) == (stage, "dropped", reason)
    assert told["datasets"] == []


def test_a_domain_counts_all_and_tells_some(tracer: Trace, made: Any) -> None:
    tracer.limit = 2
    told = tracer.pairs([Target("domain", "host1.example")])
    everywhere = [row for row in [*some_pairs(), *lost_pairs()] if "//host1." in row["url"]]
    assert sum(place["rows"] for place in told["places"]) == len(everywhere)
    assert len(told["pairs"]) == 2
    kept = [row for row in everywhere if not row["drop_reason"]]
    assert told["datasets"][0]["pairs"] == len(kept)


def test_a_picture_is_found_by_how_it_looks(tracer: Trace) -> None:
    told = tracer.pairs(image_targets(jpeg(5)))
    assert [one["uid"] for one in told["pairs"]] == [pair(5)["uid"]]


def test_a_model_tells_what_it_was_made_of(tracer: Trace, made: Any) -> None:
    told = tracer.model("models:/tiny/3")
    assert told is not None
    assert [stage["stage"] for stage in told["stages"]][-1] == "register"
    assert {stage["stage"] for stage in told["stages"]} == made[1].keys()
    assert told["datasets"][0]["key"] == made[1]["pack"].key
    assert tracer.model("models:/tiny/4") is None
    with pytest.raises(ConfigError, match="only MLflow knows aliases"):
        tracer.model("tiny@champion")


def test_an_index_of_other_parts_is_made_again(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_search, "SEGMENT", 10)
    store, snapshots = made
    rows, search = Rows(snapshots["pack"], KEPT), Search(store)
    target = [Target("uid", pair(4)["uid"])]
    found = search.find(rows, target)
    assert len(found) == 1
    name = snapshots["pack"].path("trace/part.json")
    header = json.loads(store.read(name))
    store.put(name, json.dumps({**header, "parts": {"part-00000.parquet": "0" * 64}}).encode())
    assert search.find(rows, target) == found
    assert json.loads(store.read(name)) == header
    store.put(name, b"{")
    assert search.find(rows, target) == found


def test_dropped_and_kept_rows_are_each_indexed_once(made: Any) -> None:
    ends = {(rows.manifest.stage, rows.prefix) for rows in Lineage(made[0]).final_rows()}
    assert ends == {(stage, DROPPED) for stage in ("extract", "filter", "download", "curate", "pack")} | {
        ("pack", KEPT)
    }


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command(made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    wanted = pair(4)
    store = str(made[0].root)
    assert flow.trace(wanted["url"], tmp_path, store, limit=3, index=True, as_json=as_json) == 0
    told = capsys.readouterr().out
    assert wanted["uid"] in told
    assert "models:/tiny/3" in told
    assert flow.trace(made[1]["curate"].key, tmp_path, store, limit=3, index=True, as_json=as_json) == 0
    assert made[1]["pack"].key in capsys.readouterr().out
    for nothing in ("http://nowhere.example/", "f" * 32, "models:/other/1"):
        with pytest.raises(ConfigError, match="no trace of"):
            flow.trace(nothing, tmp_path, store, limit=3, index=True, as_json=as_json)
    with pytest.raises(ConfigError, match="none of"):
        flow.trace("nonsense", tmp_path, store, limit=3, index=True, as_json=as_json)


def test_a_range_file_reads_as_a_file_does(tmp_path: Path) -> None:
    store, data = FolderStore(tmp_path), bytes(range(256)) * 1000
    store.put("x/data", data)
    file = RangeFile(store, "x/data", len(data))
    for start, size in ((0, 10), (255_990, 100), (100_000, 70_000), (5, 0), (255_999, 1), (0, -1)):
        file.seek(start)
        assert file.read(size) == (data[start:] if size < 0 else data[start : start + size])
    assert file.seek(-4, 2) == len(data) - 4
