"""Params, tags, datasets, descriptions and pages for MLflow."""

from typing import Any

from dataops.snapshot import Counts, Input, Manifest, Part
from tasks.tracking import run_metadata
from tests.manifests import build_manifest


def test_flatten_params_truncates_and_removes_secrets() -> None:
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


def manifest(stage: str, **values: Any) -> Manifest:
    return build_manifest(stage, key=f"{stage:0<16}", content_digest="ab" * 32, created_at="2026-01-01", **values)


def test_training_dataset_has_the_uri_of_its_snapshot() -> None:
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


def test_evaluation_dataset_digest_changes_with_the_suite_and_the_task() -> None:
    def digests(suite: str) -> list[str]:
        evaluated = manifest("evaluate", inputs=[Input(stage="suite", key="demo", digest=suite)])
        metrics = {"a": {"n": 3, "metrics": {}}, "b": {"n": 3, "metrics": {}}}
        return [d["digest"] for d in run_metadata.describe_evaluation_datasets(evaluated, metrics, "/store").values()]

    assert digests("1") == digests("1")
    assert len({*digests("1"), *digests("2")}) == 4
    assert {len(digest) for digest in digests("1")} == {36}
