"""The shipped Common Crawl config against a server with its layout: changing base_url is enough."""

import pytest

from dataops.home import CHECKOUT
from dataops.snapshot import Manifest
from tests.e2e.conftest import Mill
from tests.integration.test_common_crawl import wat
from tests.servers.common_crawl import CrawlServer

pytestmark = pytest.mark.timeout(240)


def test_the_shipped_config_runs_against_another_host(mill: Mill):
    store = mill.folder / "store-crawl"
    with CrawlServer() as crawl:
        crawl.publish("CC-MAIN-2026-43", {name: wat(name) for name in "abc"})
        crawl.mishap("/a.warc.wat.gz", "break", "429 0")
        places = [
            f"store.uri={store}",
            f"evaluate.suite={CHECKOUT}/configs/suites/demo.toml",
            f"evaluate.data={mill.web.suite_root}",
        ]
        settings = [argument for value in (f"source.base_url={crawl.url}", *places) for argument in ("--set", value)]
        config = CHECKOUT / "configs" / "common-crawl.toml"
        first = mill.json("run", config, *settings, "--until", "filter")
        assert [stage["state"] for stage in first["stages"]] == ["Completed", "Completed"]
        extract, kept = (
            Manifest.model_validate_json((store / stage["stage"] / stage["key"] / "manifest.json").read_bytes())
            for stage in first["stages"]
        )
        assert extract.counts.kept == kept.counts.input == 2400
        assert kept.counts.kept > 0
        asked = len(crawl.log)
        again = mill.json("run", config, *settings, "--until", "filter")
        assert [stage["state"] for stage in again["stages"]] == ["Reused", "Reused"]
        assert len(crawl.log) == asked  # nothing was asked to know it
