"""MLflow's pages in a real browser: plain clicks lead from `/` to a version, and from it to the page of each ancestor."""

import json
import time

import pytest

from tests.servers.browser import find_browser, start_browser

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("register")]
LINK = "[...document.querySelectorAll('a')].find(a => a.textContent.trim() == %s)"
ROW = "[...document.querySelectorAll('td a')].find(a => a.textContent == %s)"


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("plugins.pages")
    find_browser()
    with start_browser(tmp_path / "profile") as started:
        started.send("Emulation.setDeviceMetricsOverride", width=1400, height=1000, deviceScaleFactor=1, mobile=False)
        yield started


def follow(browser, link):
    browser.wait_for(f"{link} != null")
    browser.click(link)


def read_frame(tab):
    """Return the text of an artefact's page, which MLflow shows in a frame of its own."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        frames = [one for one in tab.send("Target.getTargets")["targetInfos"] if one["type"] == "iframe"]
        for frame in frames:
            with tab.attach(frame["targetId"]) as page:
                if text := page.run("document.readyState == 'complete' && document.body.innerText"):
                    return text
        time.sleep(0.5)
    raise AssertionError(tab.run("document.body.innerText"))


def test_clicks_lead_from_the_first_page_to_each_ancestor_of_a_version(registered, upstream, mlflow_url, browser):
    manifests = {one.stage: one for one in upstream.manifests}
    facts = registered[0].facts
    browser.open(mlflow_url)
    browser.wait_for("document.body.innerText.includes('Last modified') && location.hash.includes('experiments')")
    assert "ssistant" not in browser.run("document.body.innerText")
    assert "usage data" not in browser.run("document.body.innerText")
    follow(browser, LINK % json.dumps("Model registry"))
    follow(browser, LINK % json.dumps(facts["model_name"]))
    follow(browser, LINK % json.dumps(f"Version {facts['version']}"))
    browser.wait_for(f"{ROW % json.dumps('source file')} != null")
    links = browser.run("[...document.querySelectorAll('td a')].map(a => [a.textContent, a.getAttribute('href')])")
    shown = [name for name, _ in links]
    stages = ["evaluate", "train", "pack", "curate", "download", "filter", "extract"]
    assert [name for name in shown if name in stages] == stages, "from the model down to its sources"
    assert all(url.startswith("#/") for _, url in links if "commit" not in url), "they work in a copied home"
    for name in ("extract", "curate", "train", "source file"):
        stage = name if name in manifests else "extract"
        with browser.tab_of(ROW % json.dumps(name)) as tab:
            tab.wait_for(f"location.hash.includes('artifacts/{stage}.html')")
            text = read_frame(tab)
        assert manifests[stage].key in text
        assert manifests[stage].content_digest in text.replace("\n", "")
    sources = [one.key for one in manifests["extract"].inputs if one.stage == "source"]
    assert sources
    assert all(source in text for source in sources)
