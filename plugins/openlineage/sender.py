"""Send OpenLineage events to the server that the environment names, in order and in a thread of their own.

The events are for display only: a server that is slow, down or refuses them delays no stage and fails no run. The first
failure is a warning, later ones are only debug messages.

Only the transport of OpenLineage's client is used. The client itself also reads `openlineage.yml` from the current folder,
whoever owns it, and imports the classes that it names.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any

import orjson

from dataops.plugins import require
from dataops.redaction import read_secret, redact, remove_credentials

logger = logging.getLogger(__name__)

URL, ENDPOINT, API_KEY, DISABLED = (f"OPENLINEAGE_{name}" for name in ("URL", "ENDPOINT", "API_KEY", "DISABLED"))
"""Environment variables, with the names and meanings that OpenLineage's own clients give them."""
DEFAULT_ENDPOINT = "api/v1/lineage"
TIMEOUT_SECONDS = 5.0
"""Maximum time of one request to connect, and between two bytes of its response."""
ATTEMPTS = 3
"""Number of requests for an event, a second apart, while the server has accepted all events before it."""
END_SECONDS = 10.0
"""Maximum time for which the end of a run waits for the events that are not sent yet."""


class EventSender:
    """Sends events of one run.

    Args:
        url: the server.
        endpoint: path of its collector of events.
        api_key: sent as a bearer token.
    """

    def __init__(self, url: str, endpoint: str = DEFAULT_ENDPOINT, api_key: str | None = None):
        self._url, self._endpoint, self._api_key = url, endpoint, api_key
        self._transport: Any = None
        self._failed = False
        self._ending = threading.Event()
        self._events: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        # The context has the flow run, without which Prefect would not store the warning.
        work = copy_context().run
        self._thread = threading.Thread(target=work, args=(self._work,), name="openlineage", daemon=True)
        self._thread.start()

    def send(self, event: Mapping[str, Any]) -> None:
        """Send an event after those before it, and return at once."""
        self._events.put(event)

    def close(self, timeout_s: float = END_SECONDS) -> None:
        """Wait until all events are sent, but not longer than this; the rest are lost."""
        self._events.put(None)
        self._ending.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._fail("it has not answered before the end of the run")

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._send(orjson.loads(redact(orjson.dumps(event).decode())))
            except Exception as error:  # whatever the server, its URL or the network does
                self._fail(f"{type(error).__name__}: {error}")

    def _send(self, event: Mapping[str, Any]) -> None:
        from requests.exceptions import RequestException

        if self._transport is None:
            self._transport = _open_transport(self._url, self._endpoint, self._api_key)
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                self._transport.emit(event)
                return
            except RequestException:
                if not left or self._failed or self._ending.is_set():
                    raise
                time.sleep(1.0)

    def _fail(self, reason: str) -> None:
        level = logging.DEBUG if self._failed else logging.WARNING
        self._failed = True
        message = "%s, %s, does not accept OpenLineage events, and the run continues without them: %s"
        logger.log(level, message, URL, remove_credentials(self._url), redact(reason)[:500])


def open_sender() -> EventSender | None:
    """Return a sender to the server that the environment names; None if it names none.

    Raises: ConfigError if OpenLineage's client is not installed.
    """
    url = os.environ.get(URL, "").strip()
    if not url or os.environ.get(DISABLED, "").strip().lower() == "true":
        return None
    require(["openlineage"], "openlineage", URL)
    key = read_secret(API_KEY)
    endpoint = os.environ.get(ENDPOINT, "").strip() or DEFAULT_ENDPOINT
    return EventSender(url, endpoint, key.get_secret_value() if key else None)


def _open_transport(url: str, endpoint: str, api_key: str | None) -> Any:
    """Return OpenLineage's transport without retries of its own, about each of which urllib3 logs a warning."""
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

    if not url.lower().startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    auth = ApiKeyTokenProvider({"api_key": api_key}) if api_key else TokenProvider({})
    retry = {"total": 0, "redirect": 0, "raise_on_redirect": True}
    return HttpTransport(HttpConfig(url, endpoint, TIMEOUT_SECONDS, auth=auth, retry=retry))
