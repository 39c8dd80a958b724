"""`pairmill diff`: its output, its file of rows, and its errors."""

import polars as pl
import pytest

from dataops.errors import ConfigError
from plugins.versions.diff import diff
from tests.python_code import run_python
from tests.stored_snapshots import put_run
from tests.unit.tasks.dataset_chain import packed_in, pair

CAPTION = "=<b>{}</b> \x1b[31m"
"""A caption that is a formula, markup and an escape sequence."""


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    store, first = packed_in(tmp_path / "store", [pair(n, caption=CAPTION.format(n)) for n in range(6)])
    _, second = packed_in(
        tmp_path / "store", [pair(n, "too_small" if n == 2 else None, caption=CAPTION.format(n)) for n in range(7)]
    )
    (tmp_path / "runs").mkdir()
    put_run(store, "second", second.values())
    return tmp_path, store, first, second


def test_diff_prints_why_rows_differ(datasets, read_json):
    _, store, first, second = datasets
    assert diff(first["pack"].key, "second", store=store.uri, json=True) == 0
    assert read_json() == {
        "a": {"stage": "pack", "key": first["pack"].key, "rows": 6},
        "b": {"stage": "pack", "key": second["pack"].key, "rows": 6},
        "common": 5,
        "changed": 0,
        "added": {"rows": 1, "why": [{"stage": "extract", "reason": "not_in_source", "rows": 1}]},
        "removed": {"rows": 1, "why": [{"stage": "curate", "reason": "too_small", "rows": 1}]},
        "settings": {},
    }


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_rows_on_a_full_disk_are_a_retryable_error_and_leave_no_file(datasets, tmp_path, name):
    _, store, first, _ = datasets
    (tmp_path / "out").mkdir()
    code = (
        "import resource, sys\nfrom flows.app import run_command\nresource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))\n"
        "sys.exit(run_command(['diff', *sys.argv[1:]]))\n"
    )
    arguments = [first["pack"].key, "second", "--store", store.uri, "--rows", tmp_path / "out" / name]
    failed = run_python(code, *arguments, exit_code=75)
    assert "File too large; free disk space" in failed.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_diff_writes_the_rows_to_a_file(datasets, name):
    home, store, first, _ = datasets
    diff(first["pack"].key, "second", rows=home / name, store=store.uri, json=True)
    read = pl.read_parquet if name.endswith("parquet") else pl.read_csv
    rows = read(home / name).sort("change")
    assert rows.columns == ["change", "uid", "url", "caption", "stage", "reason"]
    assert rows["change"].to_list() == ["added", "removed"]
    assert rows["url"].to_list() == ["http://host0.example/6.jpg", "http://host2.example/2.jpg"]
    text = CAPTION.format(6)
    assert rows["caption"][0] == (f"'{text}" if name.endswith("csv") else text), "no formula"


def test_diff_refuses_what_cannot_be_compared(datasets):
    home, store, first, second = datasets
    key = first["pack"].key
    for other, rows, what in (
        (second["curate"].key, None, "name two of one stage"),
        ("nothing", None, "pairmill runs"),
        (key, home / "rows.xlsx", r"must end in \.parquet or \.csv"),
        (key, home / "no" / "rows.csv", "cannot write"),
    ):
        with pytest.raises(ConfigError, match=what):
            diff(key, other, rows=rows, store=store.uri, json=True)
