"""The shipped Common Crawl config works with another server of the same layout if base_url is changed."""

from collections import Counter

import pytest

from dataops.home import CHECKOUT
from dataops.snapshot import Manifest, find_manifest, read_parts
from dataops.store import FolderStore
from tests.e2e.conftest import Pairmill
from tests.servers.common_crawl import CrawlServer
from tests.wat_files import json_record, page_value, small_wat, warcinfo

pytestmark = pytest.mark.timeout(600)


def test_shipped_config_runs_with_another_base_url(pairmill: Pairmill):
    store = pairmill.folder / "store-crawl"
    with CrawlServer() as crawl:
        crawl.publish("CC-MAIN-2026-43", {name: small_wat(name) for name in "abc"})
        crawl.fail_next("/a.warc.wat.gz", "break", "429 0")
        local = [
            f"store.uri={store}",
            f"evaluate.suite={CHECKOUT}/configs/suites/demo.toml",
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


def test_backfill_makes_a_dataset_of_each_crawl_without_the_pairs_before_it(pairmill: Pairmill):
    """Killed after the first version, the same command makes the second one only."""
    store = FolderStore(pairmill.folder / "store-backfill")
    images = sorted(pairmill.web.site.rglob("*.png"))[:9]
    urls = [f"http://{pairmill.web.host}/{image.relative_to(pairmill.web.site)}" for image in images]

    def wat_of(chosen: list[str]) -> bytes:
        links = [{"path": "IMG@/src", "url": url, "alt": f"A drawing of a thing in ink, {url[-9:]}"} for url in chosen]
        return warcinfo() + json_record("https://a.example/", page_value("https://a.example/", {"Links": links}))

    with CrawlServer() as crawl:
        crawl.publish("CC-MAIN-2026-43", {"a": wat_of(urls[:6])})
        crawl.publish("CC-MAIN-2026-47", {"b": wat_of(urls[3:])})
        changed = [
            f"store.uri={store.uri}",
            f"source.base_url={crawl.url}",
            f'download.connect_to={{"{pairmill.web.host}"="{pairmill.site}"}}',
            "download.host_rate=0",
            "curate.near_duplicates=false",
        ]
        settings = [argument for value in changed for argument in ("--set", value)]
        crawls = ["--crawl", "CC-MAIN-2026-43", "--crawl", "CC-MAIN-2026-47"]
        command = ["backfill", CHECKOUT / "configs" / "common-crawl.toml", *crawls, *settings]
        pairmill.run_and_kill(
            *command, when=lambda: any(name.endswith("manifest.json") for name in store.names("pack"))
        )
        result = pairmill.json(*command)
    assert [version["state"] for version in result["versions"]] == ["reused", "made"]
    datasets = [find_manifest(store, "pack", version["dataset"]) for version in result["versions"]]
    found = [set(read_parts(store, one, columns=["url"])["url"].to_pylist()) for one in datasets if one is not None]
    assert found == [set(urls[:6]), set(urls[6:])]
    assert Counter(crawl.read()) == {"a": 1, "b": 1}
