"""URLs of pages of the Prefect UI.

Prefect's server has two UIs, each under a path of its own, and redirects only `/` to the one that it opens by default. A
link therefore names the default UI, for which the server is asked once.
"""

from functools import cache

import httpx
from prefect.settings import PREFECT_UI_URL

from dataops.redaction import remove_credentials

TIMEOUT_SECONDS = 5


def flow_run_url(flow_run_id: str) -> str | None:
    """Return the URL of a flow run's page, or None if the UI's URL is not known."""
    base = ui_url()
    return f"{base}/runs/flow-run/{flow_run_id}" if base else None


def ui_url() -> str:
    """Return the URL under which the default UI has its pages, without a slash at its end; empty if it is not known."""
    return _find_default_ui(remove_credentials(PREFECT_UI_URL.value() or "").rstrip("/"))


@cache
def _find_default_ui(ui: str) -> str:
    """Return the URL of the default UI; that of the setting if the server names none, as older ones and Prefect Cloud."""
    if not ui:
        return ui
    try:
        settings = httpx.get(f"{ui}/ui-settings", timeout=TIMEOUT_SECONDS).raise_for_status().json()  # noqa: TID251  asks the Prefect server that the environment names
        first, default = settings["v1_base_url"], settings[f"{settings['default_ui']}_base_url"]
        return f"{ui}/{default.removeprefix(first or '').strip('/')}".rstrip("/")
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return ui
