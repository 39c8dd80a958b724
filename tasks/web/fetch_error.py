"""Defines the error of a failed fetch."""

from dataops.reasons import Reason

TRANSIENT = (
    *(Reason.TIMEOUT, Reason.DNS, Reason.CONNECT, Reason.INCOMPLETE, Reason.HOST_BUSY),
    *("http_408", "http_425", "http_429"),
)
"""Reasons for which a fetch failed and may succeed later, beside all of `http_5xx`."""


def is_transient(reason: str) -> bool:
    """Return whether a retry of a fetch that failed for this reason may succeed."""
    return reason in TRANSIENT or reason.startswith("http_5")


class FetchError(Exception):
    """A fetch failed. The text is `reason: detail`, and equal failures of two runs have equal texts."""

    def __init__(self, reason: str, detail: str, retry_after: float | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after
        """Seconds for which the server requests a pause (Retry-After)."""

    @property
    def is_transient(self) -> bool:
        """Return whether a retry may succeed."""
        return is_transient(self.reason)
