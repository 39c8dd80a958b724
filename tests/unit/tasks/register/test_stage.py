from typing import Any

import pytest
from pydantic import ValidationError

from dataops.errors import ConfigError
from dataops.snapshot import Counts, Input, Manifest, Part
from tasks.register.config import RegisterConfig
from tasks.register.gate import check_floors
from tasks.register.version import page_urls
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata
from tests.manifests import build_manifest

ROWS = [
    {"key": "seen/top1", "value": 0.06},
    {"key": "held-out/R_at_1", "value": 0.1},
    {"key": "seen/nothing", "value": None},
    {"key": "seen/nan", "value": float("nan")},
]


@pytest.mark.parametrize(
    ("floors", "verdict"),
    [
        ({}, "passed"),
        ({"seen/top1": 0.06}, "passed"),  # a floor is the lowest value that passes
        ({"held-out/R@1": 0.1}, "passed"),
        ({"seen/top1": 0.061}, "refused: seen/top1 is 0.06, floor 0.061"),
        ({"seen/top1": 1, "held-out/R@1": 0.2}, "refused: held-out/R@1 is 0.1, floor 0.2; seen/top1 is 0.06, floor 1"),
        ({"seen/nothing": 0.0}, "refused: seen/nothing is no number, floor 0"),
        ({"seen/nan": 0.0}, "refused: seen/nan is nan, floor 0"),
    ],
)
def test_gate(floors: dict[str, float], verdict: str) -> None:
    assert str(check_floors(floors, ROWS)) == verdict


def test_floors_without_a_metric_are_named_together() -> None:
    with pytest.raises(ConfigError, match=r"a/b, c/d: no such metric; there are held-out/R_at_1, "):
        check_floors({"c/d": 1, "seen/top1": 0, "a/b": 1}, ROWS)


@pytest.mark.parametrize(
    "values",
    [
        {"model_name": ""},
        {"model_name": "a/b"},
        {"model_name": "a:b"},
        {"model_name": "a' or name = 'b"},
        {"model_name": "m", "alias": "latest"},
        {"model_name": "m", "alias": "candidate"},
        {"model_name": "m", "alias": "v12"},
        {"model_name": "m", "floors": {"a/b": float("nan")}},
        {"model_name": "m", "floor": {}},
    ],
)
def test_config_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RegisterConfig(**values)


def test_no_tracking_address_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="pairmill up"):
        tracking.tracking_uri()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://user:pa55@host:5000/x", "http://host:5000/x"),
        ("postgresql+psycopg://u:p@db/m and s3://k:s@b/c", "postgresql+psycopg://db/m and s3://b/c"),
        ("http://token@host", "http://host"),
        ("http://host/a@b", "http://host/a@b"),
        ("mail a@b.org", "mail a@b.org"),
    ],
)
def test_credentials_are_cut_out(text: str, clean: str) -> None:
    assert tracking.remove_credentials(text) == clean


def test_links_hold_no_credentials_and_open_the_classic_pages() -> None:
    facts = {"tracking_uri": "https://u:p@ml.example.org/x/", "experiment_id": "3", "run_id": "r", "version": "2"}
    links = page_urls({**facts, "model_name": "my model"})
    suffix = "?workflowType=machine_learning"
    assert links == {
        "run": f"https://ml.example.org/x/#/experiments/3/runs/r{suffix}",
        "model card": f"https://ml.example.org/x/#/experiments/3/runs/r/artifacts/model_card.html{suffix}",
        "evaluation": f"https://ml.example.org/x/#/experiments/3/runs/r/artifacts/evaluation.html{suffix}",
        "lineage": f"https://ml.example.org/x/#/experiments/3/runs/r/artifacts/lineage.svg{suffix}",
        "model version": f"https://ml.example.org/x/#/models/my%20model/versions/2{suffix}",
    }
    assert page_urls({**facts, "model_name": "m", "tracking_uri": "sqlite:///x.db"}) == {}


def test_params_are_flat_bounded_and_without_secrets() -> None:
    config = {
        "a": {"b": {"c": 1, "d": []}, "e": {}, "text": "x" * 9000},
        "access_key": "s",
        "max_tokens": 9,
        "token": "s",
        "ünicode:key": True,
        "uri": "s3://k:s@bucket/p",
    }
    params = run_metadata.flatten_params(config)
    assert params == {
        "a.b.c": "1",
        "a.b.d": "[]",
        "a.e": "{}",
        "a.text": "x" * 6000,
        "access_key": "***",
        "max_tokens": "9",
        "token": "***",
        "_nicode_key": "true",
        "uri": "s3://bucket/p",
    }


def test_config_hash_does_not_depend_on_order() -> None:
    assert run_metadata.hash_config({"a": 1, "b": {"c": 2}}) == run_metadata.hash_config({"b": {"c": 2}, "a": 1})
    assert run_metadata.hash_config({"a": 1}) != run_metadata.hash_config({"a": 2})


def manifest(stage: str, **values: Any) -> Manifest:
    return build_manifest(stage, key=f"{stage:0<16}", content_digest="ab" * 32, created_at="2026-01-01", **values)


def test_training_dataset_names_its_snapshot() -> None:
    shards = [
        Part(name="00000.tar", rows=5, bytes=10, sha256="0"),
        Part(name="part-0.parquet", rows=5, bytes=1, sha256="1"),
    ]
    dataset = run_metadata.describe_training_dataset(
        manifest("pack", parts=shards, counts=Counts(input=5, kept=5)), "s3://u:p@b/store"
    )
    assert dataset["digest"] == "ab" * 18
    assert (dataset["source_type"], dataset["source"]) == ("s3", '{"uri": "s3://b/store/pack/pack000000000000"}')
    assert '"num_rows": 5, "num_shards": 1, "bytes": 10' in dataset["profile"]
    assert '{"name": "uid", "type": "string"' in dataset["schema"]


def test_digest_of_an_evaluation_task_follows_suite_and_name() -> None:
    def digests(suite: str) -> list[str]:
        evaluated = manifest("evaluate", inputs=[Input(stage="suite", key="demo", digest=suite)])
        metrics = {"a": {"n": 3, "metrics": {}}, "b": {"n": 3, "metrics": {}}}
        return [d["digest"] for d in run_metadata.describe_evaluation_datasets(evaluated, metrics, "/store").values()]

    assert digests("1") == digests("1")
    assert len({*digests("1"), *digests("2")}) == 4
    assert {len(digest) for digest in digests("1")} == {36}


def test_description_escapes_markdown_and_fits_the_database() -> None:
    manifests = {
        "pack": manifest("pack", counts=Counts(input=5, kept=4, dropped={"a|b<script>": 1})),
        "train": manifest("train", config={"model": "x`y"}),
    }
    row = {"task": "t|*", "metric": "m", "value": 0.5, "low": None, "high": None, "chance": None, "n": 7}
    text = run_metadata.render_description(manifests, [row], ["head"], {"run": "#/x"})
    assert text.startswith("head\n\nCLIP `x y`, trained on **4 pairs**")
    assert r"t\|\*" in text
    assert r"a\|b\<script\> 1" in text
    assert text.endswith("[run](#/x)")
    long = run_metadata.render_description(manifests, [row | {"task": "t" * 300}] * 100, ["head"], {})
    assert len(long) <= 5000
    assert long.endswith("\n…")


def test_page_escapes_every_value() -> None:
    page = run_metadata.render_table_page(
        "<t>", [{"<k>": "<v>", "n": 1234, "f": 0.123456, "l": [1, "<i>"], "z": None}], "a & b"
    )
    for hostile in ("<t>", "<k>", "<v>", "<i>"):
        assert hostile not in page
    assert "<td>1,234</td><td>0.1235</td><td>1, &lt;i&gt;</td><td></td>" in page
