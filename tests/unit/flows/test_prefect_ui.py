from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_UI_URL, temporary_settings

from flows import prefect_ui

UI = "http://127.0.0.1:4200"
BOTH = {"default_ui": "v2", "v1_base_url": "/", "v2_base_url": "/v2"}


@pytest.mark.parametrize(
    ("ui", "settings", "expected"),
    [
        (UI, BOTH, f"{UI}/v2"),
        (UI, {**BOTH, "default_ui": "v1"}, UI),
        (f"{UI}/team", {"default_ui": "v2", "v1_base_url": "/team", "v2_base_url": "/team/v2"}, f"{UI}/team/v2"),
        (UI, {"api_url": "/api"}, UI),  # an older server
        (UI, None, UI),
    ],
)
def test_links_open_the_default_ui(ui: str, settings: Any, expected: str, monkeypatch: pytest.MonkeyPatch):
    def get(url: str, **_: Any) -> httpx.Response:
        if settings is None:
            raise httpx.ConnectError("down")
        assert url == f"{ui}/ui-settings"
        return httpx.Response(200, json=settings, request=httpx.Request("GET", url))

    prefect_ui._find_default_ui.cache_clear()
    monkeypatch.setattr(prefect_ui.httpx, "get", get)
    with temporary_settings({PREFECT_UI_URL: ui.replace("//", "//user:hunter2@")}):
        assert prefect_ui.flow_run_url("1") == f"{expected}/runs/flow-run/1"
    prefect_ui._find_default_ui.cache_clear()
