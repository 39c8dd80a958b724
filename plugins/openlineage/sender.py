"""Send OpenLineage events to the server that the environment names, in order and in a thread of their own.

The events are for display only: a server that is slow, down or refuses them delays no stage and fails no run. The first
failure is a warning, later ones are only debug messages.

OpenLineage's own client is not used: it follows redirects, replaces the key by a login of .netrc, and reads
`openlineage.yml` from the current folder, whoever owns it, and imports the classes that it names.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any
from urllib.parse import urlsplit

import orjson

from dataops.redaction import read_secret, redact, remove_credentials
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import basic_login, send_request

logger = logging.getLogger(__name__)

URL, ENDPOINT, API_KEY, DISABLED = (f"OPENLINEAGE_{name}" for name in ("URL", "ENDPOINT", "API_KEY", "DISABLED"))
"""Environment variables, with the names and meanings that OpenLineage's own clients give them."""
DEFAULT_ENDPOINT = "api/v1/lineage"
TIMEOUT_SECONDS = 5.0
"""Maximum time of one request, with its answer."""
MAX_BYTES = 1 << 16
"""Maximum size of an answer, in bytes."""
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
        self._url = join_endpoint(url, endpoint)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else basic_login(url)
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
                self._send(redact(orjson.dumps(event).decode()).encode())
            except Exception as error:  # whatever the server, its URL or the network does
                self._fail(f"{type(error).__name__}: {error}")

    def _send(self, event: bytes) -> None:
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                options = {"timeout": TIMEOUT_SECONDS, "limit": MAX_BYTES, "encrypted": bool(self._headers)}
                status, *_ = send_request(self._url, event, headers=self._headers, **options)
                if 200 <= status < 300:
                    return
                raise FetchError(f"http_{status}", "the server's answer; redirects are not followed")
            except FetchError as error:
                if not left or not error.is_transient or self._failed or self._ending.is_set():
                    raise
                time.sleep(1.0)

    def _fail(self, reason: str) -> None:
        level = logging.DEBUG if self._failed else logging.WARNING
        self._failed = True
        message = "%s, %s, does not accept OpenLineage events, and the run continues without them: %s"
        logger.log(level, message, URL, remove_credentials(self._url), redact(reason)[:500])


def join_endpoint(url: str, endpoint: str) -> str:
    """Return the URL of a collector: its path after that of the server, unless the server's URL ends with it already."""
    path, _, query = endpoint.strip("/").partition("?")
    parts = urlsplit(url)
    before = parts.path.rstrip("/").removesuffix(f"/{path}")
    return parts._replace(path=f"{before}/{path}", query="&".join(filter(None, (parts.query, query)))).geturl()


def open_sender() -> EventSender | None:
    """Return a sender to the server that the environment names; None if it names none."""
    url = os.environ.get(URL, "").strip()
    if not url or os.environ.get(DISABLED, "").strip().lower() == "true":
        return None
    key = read_secret(API_KEY)
    endpoint = os.environ.get(ENDPOINT, "").strip() or DEFAULT_ENDPOINT
    return EventSender(url, endpoint, key.get_secret_value().strip() if key else None)
