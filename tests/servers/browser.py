"""A headless Chromium, driven over its DevTools protocol, a web site that serves one page to it, and a recording proxy."""

import contextlib
import json
import os
import shutil
import subprocess
import time

import pytest
from websockets.sync.client import connect

from tests.servers.loopback import Handler, serving

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    """Return the path of Chromium or Chrome; skip the test if there is none."""
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    return found or pytest.skip("no Chromium here, so no real page is tried: apt-get install chromium")


class Browser:
    """One tab.

    Args:
        tabs: URL below which each tab of the browser has a socket.
    """

    def __init__(self, socket, tabs=""):
        self._socket, self._number, self._tabs = socket, 0, tabs

    def send(self, method, **parameters):
        """Send one command and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != self._number:
            continue  # an event
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url):
        self.send("Page.navigate", url=url)

    def run(self, script):
        """Run JavaScript in the page and return its value; a promise is awaited."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def click(self, element):
        """Click with the mouse on what a JavaScript expression returns, once it stays in its place."""
        middle = "[...e.getClientRects()].map(r => [r.x + r.width / 2, r.y + r.height / 2])[0]"
        script = f"(e => (e.scrollIntoView({{block: 'center'}}), {middle}))"
        place = []
        while place != (place := self.run(f"{script}({element})")):
            time.sleep(0.3)
        x, y = place
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    @contextlib.contextmanager
    def tab_of(self, element):
        """Click on an element, and yield the tab that it opens; close it at the end."""
        known = self._list_tabs()
        self.click(element)
        deadline = time.monotonic() + 60
        while not (new := self._list_tabs() - known):
            assert time.monotonic() < deadline, f"no tab was opened by {element}"
            time.sleep(0.2)
        with self.attach(new.pop()) as tab:
            yield tab
            tab.send("Page.close")

    @contextlib.contextmanager
    def attach(self, target):
        """Yield another tab, or a frame with a process of its own, by its id."""
        with connect(f"{self._tabs}/{target}", max_size=None) as page:
            yield Browser(page, self._tabs)

    def _list_tabs(self):
        targets = self.send("Target.getTargets")["targetInfos"]
        return {one["targetId"] for one in targets if one["type"] == "page"}

    def wait_for(self, script, seconds=90):
        """Run JavaScript until its value is true, and return that value."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):  # the page may just be replaced by another
                if value := self.run(script):
                    return value
            assert time.monotonic() < deadline, (script, self.run("document.documentElement.outerHTML")[:3000])
            time.sleep(0.2)


OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-pings"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    # What it requests for itself all the same, of accounts, updates and searches, goes to a port where nobody listens.
    *("--proxy-server=http://127.0.0.1:9", "--proxy-bypass-list=*.example", "--remote-debugging-port=0"),
    # Every name under `.example` is this machine; newer versions ask the user before a public page may reach it.
    "--host-resolver-rules=MAP *.example 127.0.0.1",
    "--disable-features=LocalNetworkAccessChecks,AutofillServerCommunication",  # the second one asks what a form is for
)


@contextlib.contextmanager
def start_browser(folder, proxy=None):
    """Run a browser with a new profile in a folder, and open a tab.

    Args:
        proxy: URL of the proxy of this tab, its frames and workers; not of what the browser requests for itself.
    """
    with (folder.parent / "browser.log").open("wb") as log:
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        command = [find_browser(), *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        port_file, deadline = folder / "DevToolsActivePort", time.monotonic() + 90
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert process.poll() is None, log.name
            assert time.monotonic() < deadline, "the browser did not start"
            time.sleep(0.1)
        port, path = port_file.read_text().split()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as socket:
            whole = Browser(socket)
            context = whole.send("Target.createBrowserContext", **({"proxyServer": proxy} if proxy else {}))
            tab = whole.send("Target.createTarget", url="about:blank", **context)["targetId"]
            tabs = f"ws://127.0.0.1:{port}/devtools/page"
            with connect(f"{tabs}/{tab}", max_size=None) as page:
                yield Browser(page, tabs)
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def record_requests():
    """Run a proxy that answers nothing; yield its URL, and the list of what was requested of it.

    A browser sends it each request of a tab to another machine, and none to this machine.
    """
    requested = []

    class Proxy(Handler):
        def refuse(self):
            requested.append(self.requestline)
            self.send_error(502)

        do_CONNECT = do_GET = do_POST = do_HEAD = do_OPTIONS = do_PUT = refuse

    with serving(Proxy) as server:
        yield server.url, requested


@contextlib.contextmanager
def serve_page(host):
    """Serve an empty page on this machine, and return its URL on the host."""

    class Page(Handler):
        def do_GET(self):
            self.answer(200, b"<!doctype html><title>another site</title>", Content_Type="text/html")

    with serving(Page) as server:
        yield f"http://{host}:{server.server_port}/"
