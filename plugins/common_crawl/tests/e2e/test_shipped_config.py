"""The shipped Common Crawl config works with another server of the same layout if base_url is changed."""

import pytest

from dataops.home import CHECKOUT
from dataops.snapshot import Manifest
from tests.servers.common_crawl import CrawlServer
from tests.small_pipeline import Pairmill
from tests.wat_files import small_wat

pytestmark = pytest.mark.timeout(600)


def test_shipped_config_runs_with_another_base_url(pairmill: Pairmill):
    store = pairmill.folder / "store-crawl"
    with CrawlServer() as crawl:
        crawl.publish("CC-MAIN-2026-43", {name: small_wat(name) for name in "abc"})
        crawl.fail_next("/a.warc.wat.gz", "break", "429 0")
        local = [
            f"store.uri={store}",
            f"evaluate.suite={pairmill.web.suite}",
            f"evaluate.data={pairmill.web.suite_root}",
        ]
        settings = [argument for value in (f"source.base_url={crawl.url}", *local) for argument in ("--set", value)]
        config = CHECKOUT / "configs" / "common-crawl.toml"
        first = pairmill.json("run", config, *settings, "--until", "filter")
        assert [stage["state"] for stage in first["stages"]] == ["Completed", "Completed"]
        extract, kept = (
            Manifest.decode((store / stage["stage"] / stage["key"] / "manifest.json").read_bytes())
            for stage in first["stages"]
        )
        assert extract.counts.kept == kept.counts.input == 2400
        assert kept.counts.kept > 0
        requests = len(crawl.log)
        again = pairmill.json("run", config, *settings, "--until", "filter")
        assert [stage["state"] for stage in again["stages"]] == ["Reused", "Reused"]
        assert len(crawl.log) == requests  # reuse needs no request
