"""Every report in a real browser: on a screen of 400 px nothing is cut off, and in dark mode nothing is white."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.reports.page import encode_page, render
from tests.report_pages import PAGES
from tests.servers.browser import Browser, find_browser, start_browser

pytestmark = pytest.mark.timeout(300)
LONG = "a-name-without-a-space-" * 9 + " and many more words" * 9
DARK = "rgb(20, 25, 31)"
WIDE = (
    "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && e.offsetLeft + e.offsetWidth > 400)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    find_browser()
    with start_browser(tmp_path_factory.mktemp("browser") / "profile") as started:
        started.send("Page.enable")
        started.send("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=False)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        started.send("Emulation.setEmulatedMedia", features=dark)
        yield started


@pytest.mark.parametrize("template", PAGES)
def test_page_fits_a_small_screen_and_is_dark(template: str, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / template
    page.write_bytes(encode_page(render(template, **PAGES[template](LONG))))
    browser.open(page.as_uri())
    browser.wait_for(f"document.readyState == 'complete' && location.href.endsWith('{template}')")
    assert browser.run("document.scrollingElement.scrollWidth") <= 400, browser.run(f"{WIDE}.map(e => e.outerHTML)")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == DARK
