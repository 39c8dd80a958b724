"""`pairmill browse` as a real server, asked by a client and by a real browser."""

import json
import os
import signal
import subprocess
import sys
from urllib.parse import quote

import httpx
import pytest

from dataops.home import CHECKOUT
from dataops.storage.s3 import S3Store
from plugins.browse.rows import Selection, list_rows
from plugins.browse.site import Site
from plugins.browse.tests.stored_dataset import ARCHIVED, HOSTILE, remember_run, stored
from tests.servers.browser import find_browser, record_requests, start_browser

__all__ = ["stored"]
pytestmark = pytest.mark.timeout(300)
PAGES = ("/", "/?rows=download.dropped&values=drop_reason", "/row?row=0", "/clusters", "/meaning", "/funnel")


@pytest.fixture(scope="module")
def served(stored, tmp_path_factory):
    """Run the command; it ends with the code of an interrupt."""
    store, manifests = stored
    home = remember_run(tmp_path_factory.mktemp("home"))
    command = [sys.executable, "-m", "flows.cli", "browse", manifests["pack"].key, "--store", store.uri]
    environment = os.environ | {"PAIRMILL_HOME": str(home), "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        [*command, "--no-open", "--json"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() == ""
    assert not list((home / "browse" / "sessions").iterdir())


def test_only_who_has_the_url_sees_the_rows(served):
    base = f"http://127.0.0.1:{served['port']}"
    assert served["url"] == f"{base}/?token={served['token']}"
    with httpx.Client(base_url=base, timeout=60) as client:
        assert {client.get(path).status_code for path in (*PAGES, "/image?row=0", "/assets/style.css")} == {401}
        client.get(served["url"])
        first = client.get("/")
        assert first.status_code == 200
        assert "&lt;script&gt;alert" in first.text
        assert "server" not in first.headers
        assert client.get("/image?row=0").content.startswith(b"\xff\xd8\xff")
        answer = client.post("/takedown", data={"targets": "domain:a.example"}, headers={"origin": base})
        assert answer.text.endswith("\ndomain:a.example\n")


def test_pages_in_a_browser(served, tmp_path):
    find_browser()
    base = f"http://127.0.0.1:{served['port']}"
    with record_requests() as (proxy, requested), start_browser(tmp_path / "profile", proxy) as browser:
        browser.send("Page.enable")
        violations = "window.refused = []; addEventListener('securitypolicyviolation', e => refused.push(e.blockedURI))"
        browser.send("Page.addScriptToEvaluateOnNewDocument", source=violations)
        browser.send("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=False)
        browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        browser.open(served["url"])
        browser.wait_for("document.querySelector('#cards .card') !== null")
        for path in PAGES:
            browser.open(base + path)
            browser.wait_for(f"document.readyState == 'complete' && (location.pathname + location.search) == {path!r}")
            assert browser.run("document.scrollingElement.scrollWidth") <= 400, path
            assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 25, 31)", path
            assert browser.run("refused") == [], path
        browser.open(f"{base}/?f=page_url~is~{quote(ARCHIVED)}")
        for link, then in ((".card .frame", "/row"), ("a[href^='/record']", "/record"), ("main .note a", "/row")):
            browser.wait_for(f"document.querySelector({json.dumps(link)}) !== null")
            browser.click(f"document.querySelector({json.dumps(link)})")
            browser.wait_for(f"document.readyState == 'complete' && location.pathname == {then!r}")
            assert browser.run("document.scrollingElement.scrollWidth") <= 400, then
        browser.open(f"{base}/?q=alert")
        browser.wait_for("document.querySelectorAll('#cards .card').length == 1 && document.images[0].naturalWidth > 0")
        assert HOSTILE in browser.run("document.querySelector('#cards .caption').textContent")
        browser.run("document.querySelector('#cards input').click()")
        assert browser.run("document.querySelector('#basket').checkVisibility()")
        assert browser.run("document.querySelector('#basket-targets').value").startswith("uid:")
    assert requested == []


def test_a_dataset_on_s3_has_the_same_rows_and_images(stored, s3_environment, tmp_path):
    folder, manifests = stored
    remote = S3Store("mill", f"browse/{tmp_path.name}")
    for name in folder.names(""):
        remote.put(name, folder.local(name))
    sides = []
    for number, store in enumerate((folder, remote)):
        site = Site((manifests["pack"], store), None, tmp_path / f"home-{number}")
        shown = []
        for label in ("pack.kept", "curate.dropped"):
            view = site.dataset.view(label)
            rows = list_rows(site.database, Selection(view))
            shown.append((rows, [site.images.get(view, row, "small") for row in rows]))
        sides.append(shown)
        site.close()
    assert sides[0] == sides[1]
    assert len(sides[0][0][0]) == manifests["pack"].counts.kept
