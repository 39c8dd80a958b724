"""One bad host must not hold a shard: what keeps us waiting a few times in a row is not asked again in this shard."""

import threading
from typing import Any
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, Request

from tasks.fetch import FetchError

STRIKES = 3
"""Failures of a host in a row, after which its other rows fail alike."""
_WAITED = frozenset({"timeout", "connect", "connection"})


class HostBreaker(OpenerDirector):
    """An opener for one shard before the real one; safe to use from many threads.

    Rows of a host that was given up get the very failure that it had, whichever of them were asked, so that a dead host
    gives the same rows each time; their evidence says that they were not asked. A request that timed out is not tried
    again at once: a later round may.
    """

    def __init__(self, opener: OpenerDirector):
        super().__init__()
        self._opener = opener
        self._lock = threading.Lock()
        self._in_a_row: dict[str, int] = {}
        self._last: dict[str, FetchError] = {}
        self._timed_out: dict[str, FetchError] = {}

    def open(self, fullurl: str | Request, data: Any = None, timeout: float | None = None) -> Any:
        """As the real opener does. Raises: FetchError."""
        url = fullurl.full_url if isinstance(fullurl, Request) else fullurl
        host = _host(url)
        with self._lock:
            known = self._timed_out.get(url) or (self._last[host] if self._in_a_row.get(host, 0) >= STRIKES else None)
        if known:
            raise FetchError(known.reason, known.detail)
        try:
            answer = self._opener.open(fullurl, data, timeout)
        except FetchError as error:
            self._note(url, host, error)
            raise
        self._note(url, host, None)
        return answer

    def _note(self, url: str, host: str, error: FetchError | None) -> None:
        waited = error is not None and error.reason in _WAITED
        with self._lock:
            self._in_a_row[host] = self._in_a_row.get(host, 0) + 1 if waited else 0
            if error is not None and waited:
                self._last[host] = error
            if error is not None and error.reason == "timeout":
                self._timed_out[url] = error


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
