"""Pairs and models are traced over a chain of real snapshots."""

import json

import pyarrow.parquet as pq
import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from dataops.trace.requests import Report, make_request, record_request, report_name
from dataops.trace.targets import Target, image_targets
from plugins.trace import command as flow
from plugins.trace.tracing import Trace
from tasks.lineage.graph import Lineage
from tasks.search import Search
from tasks.tracking.registry import Registry
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import chain, dropped_pairs, jpeg, packed, pair, some_pairs


def write_child(store, stage, above, **facts):
    """Write a snapshot without rows that has another as its input."""
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
def stored(tmp_path_factory):
    """Return a store, and its snapshots by stage."""
    folder = tmp_path_factory.mktemp("trace")
    store = FolderStore(folder / "store")
    pairs = some_pairs()
    pairs[5]["phash"] = image_targets(jpeg(5))[1].value
    snapshots = chain(store, [*pairs, *dropped_pairs()])
    snapshots["pack"] = packed(store, folder, snapshots, shard_size=6)
    snapshots["train"] = write_child(store, "train", snapshots["pack"])
    snapshots["evaluate"] = write_child(store, "evaluate", snapshots["train"])
    facts = {"model_name": "tiny", "version": "3", "gate": "passed", "run_id": "r1"}
    snapshots["register"] = write_child(store, "register", snapshots["evaluate"], **facts)
    return store, snapshots


@pytest.fixture
def tracer(stored):
    return Trace(Lineage(stored[0]), Search(stored[0]), Registry())


def test_trace_follows_a_kept_pair_from_archive_to_model(tracer, stored):
    expected, snapshots = pair(4), stored[1]
    traced = tracer.pairs([Target("uid", expected["uid"])])
    (one,) = traced["pairs"]
    assert (one["url"], one["caption"], one["source"]) == (expected["url"], expected["caption"], expected["source"])
    (way,) = one["ways"]
    assert [(step["stage"], step["key"], step["verdict"]) for step in way] == [
        (stage, snapshots[stage].key, "kept") for stage in ("extract", "filter", "download", "curate", "pack")
    ]
    assert (way[2]["shard"], way[2]["member"], way[2]["sha256"]) == ("00000.tar", expected["uid"], expected["sha256"])
    row = pq.read_table(stored[0].local(snapshots["pack"].path(way[4]["part"]))).to_pylist()[way[4]["row"]]
    assert row["uid"] == expected["uid"]
    (dataset,) = traced["datasets"]
    (training,) = dataset["trainings"]
    assert (dataset["key"], dataset["pairs"]) == (snapshots["pack"].key, 1)
    assert training["evaluations"] == [snapshots["evaluate"].key]
    assert [model["uri"] for model in training["models"]] == ["models:/tiny/3"]
    assert "MLFLOW_TRACKING_URI is not set" in traced["registry"]


@pytest.mark.parametrize(
    ("number", "stage", "reason"),
    [(100, "extract", "page_opt_out"), (121, "download", "http_404"), (7, "curate", "near_duplicate")],
)
def test_trace_returns_the_stage_and_reason_of_a_dropped_pair(tracer, number, stage, reason):
    traced = tracer.pairs([Target("url", pair(number)["url"])])
    (one,) = traced["pairs"]
    last = one["ways"][0][-1]
    assert (last["stage"], last["verdict"], last["reason"]) == (stage, "dropped", reason)
    assert traced["datasets"] == []


def test_trace_counts_all_pairs_of_a_domain_and_returns_at_most_the_limit(tracer, stored):
    tracer.limit = 2
    traced = tracer.pairs([Target("domain", "host1.example")])
    on_host = [row for row in [*some_pairs(), *dropped_pairs()] if "//host1." in row["url"]]
    assert sum(place["rows"] for place in traced["places"]) == len(on_host)
    assert len(traced["pairs"]) == 2
    kept = [row for row in on_host if not row["drop_reason"]]
    assert traced["datasets"][0]["pairs"] == len(kept)


def test_trace_of_a_model_returns_its_stages_and_dataset(tracer, stored):
    traced = tracer.model("models:/tiny/3")
    assert [stage["stage"] for stage in traced["stages"]][-1] == "register"
    assert {stage["stage"] for stage in traced["stages"]} == stored[1].keys()
    assert traced["datasets"][0]["key"] == stored[1]["pack"].key
    assert tracer.model("models:/tiny/4") is None
    with pytest.raises(ConfigError, match="aliases are in MLflow only"):
        tracer.model("tiny@champion")


def test_trace_lists_all_datasets_of_a_mixture_and_its_models(tmp_path):
    store = FolderStore(tmp_path / "store")
    own, other = (chain(store, [pair(n) for n in numbers]) for numbers in (range(6), range(50, 54)))
    packs = [packed(store, tmp_path, one) for one in (own, other)]
    draft = Draft(store, "train", "t" * 16)
    inputs, config = [pack.as_input() for pack in packs], {"model": "tiny", "dataset": [1, 0.5]}
    train = draft.commit(build_manifest("train", [], key=draft.key, inputs=inputs, config=config))
    facts = {"model_name": "tiny", "version": "3", "gate": "passed", "run_id": "r1"}
    decided = Draft(store, "register", "r" * 16)
    above = [write_child(store, "evaluate", train).as_input()]
    decided.commit(build_manifest("register", [], key=decided.key, inputs=above, facts=facts))
    request = make_request([Target("uid", pair(52)["uid"])], "")
    record_request(store, request)
    report = Report(versions={packs[1].key: "f" * 16})
    store.put(report_name(request.digest), report.model_dump_json().encode())
    tracer = Trace(Lineage(store), Search(store), Registry())
    traced = tracer.model("models:/tiny/3")
    assert [one["key"] for one in traced["datasets"]] == [pack.key for pack in packs]
    assert [one["trainings"][0]["removed_later"] for one in traced["datasets"]] == [[], [request.digest]]
    for number, share in ((2, 2 / 3), (52, 1 / 3)):
        (dataset,) = tracer.pairs([Target("uid", pair(number)["uid"])])["datasets"]
        (training,) = dataset["trainings"]
        assert round(training["share"], 6) == round(share, 6)
        assert [model["uri"] for model in training["models"]] == ["models:/tiny/3"]


@pytest.mark.parametrize(
    ("extractor", "place"),
    [
        ("pairmill-warc/3", "a.list at byte 1,074 ("),
        ("another/1", "a.list at position 1,074 ("),
    ],
)
def test_trace_prints_the_place_in_the_unit_of_its_source_and_long_urls(extractor, place, tmp_path, capsys):
    url = f"http://photos.example/{'long' * 100}.png"
    row = pair(1, url=url, source="a.list", source_offset=1074, extracted_with=extractor, caption_source="alt")
    store = FolderStore(tmp_path / "store")
    chain(store, [row])
    for as_json in (False, True):
        flow.command(row["uid"], limit=1, store=store.uri, json=as_json)
    printed, as_value = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert place in printed
    assert url in printed, "no line is cut off"
    (found,) = json.loads(as_value)["stores"][0]["pairs"]
    assert (found["source_offset"], found["source_unit"]) == (1074, place.split()[2])


def test_trace_prints_each_signal_of_a_fetch_in_a_line_of_its_own(tmp_path, capsys):
    found = [{"signal": name, "detail": "noai", "where": f"https://{name}.example/", "when": None} for name in "ab"]
    row = pair(1, "opt_out", "download", opt_out=found, permissions=found[:1])
    store = FolderStore(tmp_path / "store")
    chain(store, [row])
    flow.command(row["uid"], limit=1, store=store.uri)
    lines = [line.strip("│├└─ ") for line in capsys.readouterr().out.splitlines()]
    assert "dropped: opt_out" in lines[-4], "no fact of the fetch is known"
    assert lines[-3:] == [
        "opt-out a: noai, in https://a.example/",
        "opt-out b: noai, in https://b.example/",
        "permission a: noai, in https://a.example/",
    ]


@pytest.mark.parametrize("as_json", [True, False])
def test_trace_command_prints_pairs_snapshots_and_errors(stored, tmp_path, capsys, as_json):
    expected = pair(4)
    store = str(stored[0].root)
    assert flow.command(expected["url"], limit=3, store=store, json=as_json) == 0
    output = capsys.readouterr().out
    assert expected["uid"] in output
    assert "models:/tiny/3" in output
    assert flow.command(stored[1]["curate"].key, limit=3, store=store, json=as_json) == 0
    assert stored[1]["pack"].key in capsys.readouterr().out
    for nothing in ("http://nowhere.example/", "f" * 32, "models:/other/1"):
        with pytest.raises(ConfigError, match="no trace of"):
            flow.command(nothing, limit=3, store=store, json=as_json)
    with pytest.raises(ConfigError, match="none of"):
        flow.command("nonsense", limit=3, store=store, json=as_json)
