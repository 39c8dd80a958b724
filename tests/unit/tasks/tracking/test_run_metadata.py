"""Params, tags, datasets, descriptions and pages for MLflow."""

from tasks.tracking import run_metadata


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
