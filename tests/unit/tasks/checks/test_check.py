"""Each check passes and fails on hand-made figures, and names what failed, the figure and the bound."""

import pytest

from dataops.snapshot import Counts
from tasks.checks.check import ChecksConfig, check_dataset
from tests.manifests import build_manifest

ROWS = {"extract": (1000, 900), "filter": (900, 500), "download": (500, 400), "curate": (400, 200), "pack": (200, 200)}
FACTS = {
    "sources": {"shop": 150, "museum": 50},
    "languages": {"en": 150, "fr": 50},
    "hosts": {"a.test": 100, "b.test": 100},
}


def dataset(rows=None, **facts):
    """Return the manifests of a dataset; `facts` replace facts of pack, or leave them out where they are None."""
    found = {}
    for stage, (before, kept) in {**ROWS, **(rows or {})}.items():
        counts = Counts(input=before, kept=kept, dropped={"exact_duplicate": before - kept} if before > kept else {})
        found[stage] = build_manifest(stage, key=f"{stage:0>16}", counts=counts)
    replaced = {"extract": {"files": 4, "failed_files": facts.pop("failed_files", [])}}
    replaced["pack"] = found["pack"].facts | {n: value for n, value in (FACTS | facts).items() if value is not None}
    replaced["filter"] = {}
    for stage, values in replaced.items():
        found[stage] = found[stage].model_copy(update={"facts": values})
    found["filter"] = found["filter"].model_copy(update={"config": {"languages": ["en", "fr"]}})
    return found


def check_one(name, now, last=None, **config):
    report = check_dataset(ChecksConfig.model_validate(config), now, last, "run-1" if last else None)
    (result,) = (one for one in report.results if one.check == name)
    return result


BROKEN = {
    "max_unreadable_files": (
        dataset(failed_files=[["x", "y"]]),
        0.25,
        "1 of 4 source files (25.00%) could not be read; the maximum is 10%",
    ),
    "min_source_rows": (
        dataset(sources={"shop": 200, "museum": 0}),
        0,
        "the source museum has 0 pairs; the minimum is 1",
    ),
    "min_kept_download": (
        dataset({"download": (500, 100)}),
        0.2,
        "download kept 100 of 500 rows (20.00%); the minimum is 30%",
    ),
    "max_duplicates": (
        dataset({"curate": (400, 20)}),
        0.95,
        "curate dropped 380 of 400 rows as duplicates (95.00%); the maximum is 90%",
    ),
    "min_language_rows": (dataset(languages={"en": 200}), 0, "the language fr has 0 pairs; the minimum is 1"),
    "max_host_share": (
        dataset(hosts={"a.test": 190, "b.test": 10}),
        0.95,
        "the host a.test has 95.00% of the pairs; the maximum is 80%",
    ),
}
"""Datasets that the defaults find wrong without an earlier version, with the figure and the text."""


@pytest.mark.parametrize("name", BROKEN)
def test_defaults_find_a_broken_dataset(name):
    now, figure, text = BROKEN[name]
    result = check_one(name, now)
    assert (result.state, result.level, result.figure) == ("failed", "warn", pytest.approx(figure))
    assert text in result.text
    assert result.bound == getattr(ChecksConfig(), name)


def test_defaults_find_a_change_since_the_last_version():
    now = dataset({"pack": (60, 60)})
    result = check_one("min_rows_ratio", now, dataset())
    assert (result.state, result.figure) == ("failed", pytest.approx(0.3))
    assert "0.30 times the 200 pairs of the last version; the minimum is 0.5" in result.text
    assert check_one("min_rows_ratio", now).text == "there is no earlier version of this name"


def test_level_of_a_check_decides_what_it_does():
    now, *_ = BROKEN["max_host_share"]
    assert check_one("max_host_share", now, level="block").outcome == "blocks"
    assert check_one("max_host_share", now, level="block", levels={"max_host_share": "warn"}).outcome == "warning"
    report = check_dataset(ChecksConfig(levels={"max_host_share": "off"}), now)
    assert "max_host_share" not in {one.check for one in report.results}
    assert check_dataset(ChecksConfig(level="off"), now).results == []


def test_language_of_the_last_version_that_vanished_is_found_without_a_list_of_languages():
    now, last = dataset(languages={"en": 200}), dataset(languages={"en": 196, "cs": 3, "da": 1})
    now["filter"] = now["filter"].model_copy(update={"config": {"languages": []}})
    result = check_one("min_language_rows", now, last)
    assert (result.state, result.text) == ("failed", "the language cs has 0 pairs; the minimum is 1")
    chosen = now | {"filter": now["filter"].model_copy(update={"config": {"languages": ["en"]}})}
    assert check_one("min_language_rows", chosen, last).state == "passed", "the config no longer wants cs"
    assert check_one("min_language_rows", now).state == "not checked"


def test_text_has_no_control_characters_of_a_host():
    result = check_one("max_host_share", dataset(hosts={"a\x1b[31m.test": 190, "b.test": 10}))
    assert "\x1b" not in result.text
    assert "a\\x1b[31m.test has 95.00%" in result.text
