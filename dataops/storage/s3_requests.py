"""Send requests to an S3 server: retry transient failures, and name the remedy of the others.

The restart of a server, a lost connection or a full queue is retried for two minutes with growing
pauses; the log has one line when that begins and one when it ends. What the user must correct (a
missing bucket, wrong credentials, the clock, an endpoint that is not S3) raises ConfigError at
once. Messages name the bucket and the server's host, and no secret.
"""

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from dataops.errors import ConfigError, StorageError
from dataops.messages.waiting import pause

logger = logging.getLogger(__name__)

MISSING = frozenset({"404", "NotFound", "NoSuchKey", "NoSuchBucket"})
REFUSED = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
CHANGED = frozenset({"412", "PreconditionFailed"})
TRANSIENT = frozenset({"InternalError", "OperationAborted", "ConditionalRequestConflict", "RequestTimeout", "SlowDown"})
"""Codes after which the same request may succeed."""
CORRUPT = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest", "IncompleteBody"})
"""Codes of bytes that arrived with another checksum than the sent one."""
REMEDIES = {
    "NoSuchBucket": "Create the bucket, or correct store.uri",
    "InvalidBucketName": "Correct store.uri: s3://bucket/prefix",
    "InvalidAccessKeyId": "Correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "Correct AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "Give these credentials the right to read, write, list and delete below this prefix",
    "AllAccessDisabled": "Give these credentials the right to read, write, list and delete below this prefix",
    "ExpiredToken": "Renew the temporary credentials (AWS_SESSION_TOKEN)",
    "InvalidToken": "Renew the temporary credentials (AWS_SESSION_TOKEN)",
    "RequestTimeTooSkewed": "Set this machine's clock (timedatectl set-ntp true), or the server's",
    "AuthorizationHeaderMalformed": "Set AWS_DEFAULT_REGION to the bucket's region",
    "PermanentRedirect": "Set AWS_DEFAULT_REGION to the bucket's region and AWS_ENDPOINT_URL to its server",
    "IllegalLocationConstraintException": "Set AWS_DEFAULT_REGION to the bucket's region",
    "NotImplemented": "Use a server that supports conditional puts and checksums",
}
"""What the user must do about an error code of the store's server: a retry solves none of them."""


def error_code(error: Any) -> str:
    """Return the error code of a botocore ClientError, or "" if it has none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def http_status(error: Any) -> int:
    """Return the HTTP status of a botocore ClientError, or 0 if there was no answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


T = TypeVar("T")

OUTLAST_SECONDS = 120.0
"""Seconds for which a request is retried while the server does not answer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
CORRUPT_ATTEMPTS = 3
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of every machine that works on this store "
    "(or AWS_PROFILE, or give the machine a role)"
)
NOT_S3 = "Something that is not S3 answers there: correct AWS_ENDPOINT_URL"
TLS = (
    "The TLS connection failed: name the server's authority in AWS_CA_BUNDLE, or correct http:// or https:// and the host "
    "in AWS_ENDPOINT_URL"
)
UNREACHABLE = "Check AWS_ENDPOINT_URL, the network and the server; a rerun continues after the finished parts"
FAILURES = (boto.BotoCoreError, boto.ClientError, Boto3Error, ResponseParserError, RecursionError)
"""The errors that boto raises. RecursionError: botocore follows a redirect that is not S3's without end (1.44)."""


class CorruptTransfer(Exception):
    """The received bytes differ from the written ones."""


class S3Requests:
    """Sends requests to one server.

    Args:
        where: URI of the store and host of its server, for messages.
        outlast_seconds: time for which a request is retried.
        first_pause: seconds before the first retry; the pauses double.
    """

    def __init__(self, where: str, outlast_seconds: float = OUTLAST_SECONDS, first_pause: float = FIRST_PAUSE):
        self.where, self.outlast_seconds, self.first_pause = where, outlast_seconds, first_pause
        self._jitter = random.Random()
        self._outage_since: float | None = None
        self._has_answered = False
        self._lock = threading.Lock()

    def __call__(self, what: str, request: Callable[[], T]) -> T:
        """Return the answer to a request, which is retried after transient failures.

        Args:
            what: action and object, for messages: "read a/b".

        Raises: ConfigError, StorageError; both name the store, the server and the remedy.
        """
        started, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            try:
                answer = request()
            except (*FAILURES, CorruptTransfer) as raised:
                error = _innermost(raised)
                waited = time.monotonic() - started
                again = attempt < CORRUPT_ATTEMPTS if _is_corrupt(error) else waited < self.outlast_seconds
                if not (again and (is_transient(error) or (self._has_answered and _is_unnamed_404(error)))):
                    raise self._explained(what, error, waited) from error
                self._log_outage(what, error)
                longest = min(LONGEST_PAUSE, self.first_pause * 2 ** min(attempt - 1, 10))
                seconds = longest * self._jitter.uniform(0.5, 1)  # so that the workers do not all retry at once
                since, reason = time.time() - waited, f"{self.where}: cannot {what}: {self._clean(error)}"
                pause(seconds, reason, since=since, deadline=since + self.outlast_seconds)
            else:
                self._log_recovery()
                self._has_answered = True
                return answer

    def _log_outage(self, what: str, error: BaseException) -> None:
        with self._lock:
            if self._outage_since is None:
                self._outage_since = time.monotonic()
                why = f"cannot {what}: {self._clean(error)}"
                logger.warning("waiting up to %.0f s for %s: %s", self.outlast_seconds, self.where, why)

    def _log_recovery(self) -> None:
        if self._outage_since is None:
            return
        with self._lock:
            if self._outage_since is not None:
                waited, self._outage_since = time.monotonic() - self._outage_since, None
                logger.warning("%s answers again after %.0f s", self.where, waited)

    def _explained(self, what: str, error: BaseException, waited: float) -> ConfigError | StorageError:
        remedy, kind = _remedy(error)
        tried = f" (tried for {waited:.0f} s)" if waited > 1 else ""
        return kind(f"cannot {what} in {self.where}: {self._clean(error)}{tried}. {remedy}")

    def _clean(self, error: BaseException) -> str:
        """Return the text of an error without secrets."""
        if isinstance(error, boto.ClientError):
            detail = error.response.get("Error", {})
            code = detail.get("Code") or f"HTTP {http_status(error)}"
            text = f"{code}: {detail.get('Message') or 'no reason given'}"
        elif isinstance(error, RecursionError):
            text = "it redirects in a loop"
        else:
            text = str(error)
        for name in _SECRETS:
            if value := os.environ.get(name):
                text = text.replace(value, f"<{name}>")
        text = re.sub(r"//[^/@\s]*@", "//", text)  # credentials in an address
        return re.sub(r"\s+", " ", text).rstrip(". ")[:400]


def explain_setup_error(error: BaseException, uri: str) -> ConfigError:
    """Return the error of an environment from which no client can be made."""
    remedy = "Correct AWS_ENDPOINT_URL: http(s)://host[:port]" if isinstance(error, ValueError) else _remedy(error)[0]
    return ConfigError(f"cannot open {uri}: {re.sub(r'//[^/@]*@', '//', str(error))}. {remedy}")


def _innermost(error: BaseException) -> BaseException:
    """Return the server's error, which a managed transfer wraps."""
    if isinstance(error, Boto3Error):
        return getattr(error, "last_exception", None) or error.__cause__ or error.__context__ or error
    return error


def _is_named(error: boto.ClientError) -> bool:
    """Return whether the answer has an error code in XML, as S3's answers have, except those to HEAD requests."""
    return bool(error_code(error)) and not error_code(error).isdigit()


def _is_unnamed_404(error: BaseException) -> bool:
    """Return whether an answer is what servers such as SeaweedFS send while they start, and servers that are not S3."""
    return isinstance(error, boto.ClientError) and http_status(error) == 404 and not _is_named(error)


def _is_corrupt(error: BaseException) -> bool:
    if isinstance(error, boto.ClientError):
        return error_code(error) in CORRUPT
    return isinstance(error, CorruptTransfer | boto.FlexibleChecksumError)


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later although nothing was corrected."""
    if isinstance(error, boto.ClientError):
        status = http_status(error)
        return (
            error_code(error) in TRANSIENT | CORRUPT
            or status in (408, 429)
            or (status >= 500 and status not in (501, 505))
        )
    if isinstance(error, boto.SSLError):
        return False
    lost = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError)
    return _is_corrupt(error) or isinstance(error, lost)


def _remedy(error: BaseException) -> tuple[str, type[ConfigError] | type[StorageError]]:
    if isinstance(error, boto.ClientError):
        if is_transient(error):
            return (UNREACHABLE if _is_named(error) else f"Server error, or no S3 server. {UNREACHABLE}"), StorageError
        if (known := REMEDIES.get(error_code(error))) is not None:
            return known, ConfigError
        return ("See the server's log", StorageError) if _is_named(error) else (NOT_S3, ConfigError)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return CREDENTIALS, ConfigError
    if isinstance(error, boto.ProfileNotFound):
        return "Correct AWS_PROFILE", ConfigError
    if isinstance(error, boto.SSLError):
        return TLS, ConfigError
    if isinstance(error, ResponseParserError | RecursionError):
        return NOT_S3, ConfigError
    if _is_corrupt(error):
        return (
            "Check the disks and the memory of the server, and the network: it sends other bytes than were written",
            StorageError,
        )
    return UNREACHABLE, StorageError
