"""Params, tags, datasets, descriptions and pages for MLflow."""

import pytest

from tasks.tracking import run_metadata
from tests.manifests import build_manifest


@pytest.mark.parametrize(
    ("model", "towers", "name"),
    [
        ("ViT-B-32", [], "ViT-B-32"),
        ("configs/models/Own-64.json", ["both"], "Own-64.json"),
        ("RN-mini-64", ["text"], "RN-mini-64 + text-net"),
        ("/mine/Own-64.json", ["image"], "Own-64.json + image-net"),
        ("RN-mini-64", ["text", "image"], "text-net + image-net"),
    ],
)
def test_name_of_a_model_has_the_towers_that_replace_its_own(model, towers, name):
    weights = [{"tower": tower, "name": f"{tower}-net", "sha256": "0" * 64} for tower in towers]
    train = build_manifest("train", config={"model": model}, facts={"weights": weights})
    assert run_metadata.model_name(train) == name


def test_flatten_params_truncates_and_removes_secrets():
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
