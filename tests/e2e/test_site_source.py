"""configs/site.toml and configs/pairs.toml, run from the command line up to filtered pairs."""

import json
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from tests.e2e.conftest import Pairmill
from tests.servers.site import served

pytestmark = pytest.mark.timeout(240)


def test_site_is_crawled_once_and_its_pairs_are_filtered(pairmill: Pairmill, tmp_path: Path):
    with served() as web:
        settings = {
            "store.uri": str(tmp_path / "store"),
            "source.start": '["http://pets.test/"]',
            "source.connect_to": f'{{ "pets.test" = "{web.address}" }}',
            "source.delay": "0.02",
            "evaluate.suite": f"{CHECKOUT}/configs/suites/demo.toml",
            "evaluate.data": str(pairmill.web.suite_root),
        }
        arguments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        command = ("run", CHECKOUT / "configs" / "site.toml", *arguments, "--until", "filter")
        first = pairmill.json(*command)
        assert [(s["stage"], s["state"]) for s in first["stages"]] == [
            ("extract", "Completed"),
            ("filter", "Completed"),
        ]
        assert first["stages"][0]["counts"]["kept"] == 7
        shown = pairmill.json("show", first["run_id"])
        extract = next(stage for stage in shown["stages"] if stage["stage"] == "extract")
        manifest = json.loads((Path(extract["path"]) / "manifest.json").read_text())
        assert manifest["facts"]["crawl"]["outcomes"]["robots_denied"] == 1
        requests = len(web.log)
        second = pairmill.json(*command)
        assert {stage["state"] for stage in second["stages"]} == {"Reused"}
        assert len(web.log) == requests


def test_pair_list_is_read_and_its_pairs_are_filtered(pairmill: Pairmill, tmp_path: Path):
    rows = [f"A picture of the big house number {i}\thttp://img.example/{i}.jpg" for i in range(50)]
    (tmp_path / "cc3m.tsv").write_text("\n".join([*rows, rows[0], "no address\tat all"]))
    settings = {
        "store.uri": str(tmp_path / "store"),
        "source.paths": f'["{tmp_path}/*.tsv"]',
        "evaluate.suite": f"{CHECKOUT}/configs/suites/demo.toml",
        "evaluate.data": str(pairmill.web.suite_root),
    }
    arguments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    result = pairmill.json("run", CHECKOUT / "configs" / "pairs.toml", *arguments, "--until", "filter")
    extract, kept = result["stages"]
    assert extract["counts"] == {"input": 52, "kept": 51, "dropped": {"bad_url": 1}}
    assert kept["counts"]["dropped"] == {"duplicate_uid": 1}
