"""configs/site.toml, run from the command line up to filtered pairs."""

import json
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from tests.servers.site import served
from tests.small_pipeline import Pairmill

pytestmark = pytest.mark.timeout(240)


def test_site_is_crawled_once_and_its_pairs_are_filtered(pairmill: Pairmill, tmp_path: Path):
    with served() as web:
        settings = {
            "store.uri": str(tmp_path / "store"),
            "source.start": '["http://pets.test/"]',
            "source.connect_to": f'{{ "pets.test" = "{web.address}" }}',
            "source.delay": "0.02",
            "evaluate.suite": str(pairmill.web.suite),
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
