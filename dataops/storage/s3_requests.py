"""Requests to an S3 server: which failures pass by themselves and are waited out, and what is to be done about the others.

A server's restart, a dropped connection or a full queue is waited for, for OUTLAST_SECONDS, with growing pauses; one line
in the log says so, and one that it is over. What somebody must correct (a missing bucket, wrong credentials, the clock, an
address that is not S3) is a ConfigError at once. Messages name the bucket and the server's host, and never hold a secret.
"""

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from dataops.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")

OUTLAST_SECONDS = 120.0
"""How long a server may be away in the middle of a run."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
CORRUPT_ATTEMPTS = 3
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

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
    "NotImplemented": "Use a server that knows conditional puts and checksums",
}
"""What somebody must do about an error code of the server: waiting mends none of them."""
CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of every machine that works on this store "
    "(or AWS_PROFILE, or give the machine a role)"
)
NOT_S3 = "Something that is not S3 answers there: correct AWS_ENDPOINT_URL"
TLS = (
    "The TLS connection failed: name the server's authority in AWS_CA_BUNDLE, or correct http:// or https:// and the host "
    "in AWS_ENDPOINT_URL"
)
AWAY = "Check AWS_ENDPOINT_URL, the network and the server; a rerun goes on from what is finished"
_PASSING = frozenset({"InternalError", "OperationAborted", "ConditionalRequestConflict", "RequestTimeout", "SlowDown"})
_CORRUPT = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest", "IncompleteBody"})
FAILURES = (boto.BotoCoreError, boto.ClientError, Boto3Error, ResponseParserError, RecursionError)
"""What boto raises. RecursionError: botocore follows a redirect that is not S3's for ever (1.44)."""


class CorruptTransfer(Exception):
    """The bytes that came are not those that were written."""


class S3Requests:
    """Makes requests to one server.

    Args:
        where: the store and its server's host, for messages.
    """

    def __init__(self, where: str):
        self.where = where
        self.outlast_seconds = OUTLAST_SECONDS
        self._jitter = random.Random()
        self._away_since: float | None = None
        self._lock = threading.Lock()

    def __call__(self, what: str, request: Callable[[], T]) -> T:
        """The answer to a request, tried again while the failure is one that passes.

        Args:
            what: "read a/b": for messages.

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
                if not (again and _passes(error)):
                    raise self._explained(what, error, waited) from error
                self._note_away(what, error)
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt - 1, 10))
                time.sleep(pause * self._jitter.uniform(0.5, 1))  # so that not all workers come back at once
            else:
                self._note_back()
                return answer

    def _note_away(self, what: str, error: BaseException) -> None:
        with self._lock:
            if self._away_since is None:
                self._away_since = time.monotonic()
                why = f"cannot {what}: {self._clean(error)}"
                logger.warning("waiting up to %.0f s for %s: %s", self.outlast_seconds, self.where, why)

    def _note_back(self) -> None:
        if self._away_since is None:
            return
        with self._lock:
            if self._away_since is not None:
                waited, self._away_since = time.monotonic() - self._away_since, None
                logger.warning("%s answers again after %.0f s", self.where, waited)

    def _explained(self, what: str, error: BaseException, waited: float) -> ConfigError | StorageError:
        remedy, kind = _remedy(error)
        tried = f" (tried for {waited:.0f} s)" if waited > 1 else ""
        return kind(f"cannot {what} in {self.where}: {self._clean(error)}{tried}. {remedy}")

    def _clean(self, error: BaseException) -> str:
        """The error's text, without what must not be told."""
        if isinstance(error, boto.ClientError):
            detail = error.response.get("Error", {})
            text = (
                f"{detail.get('Code') or 'HTTP ' + str(_status(error))}: {detail.get('Message') or 'no reason given'}"
            )
        elif isinstance(error, RecursionError):
            text = "it redirects in a circle"
        else:
            text = str(error)
        for name in _SECRETS:
            if value := os.environ.get(name):
                text = text.replace(value, f"<{name}>")
        text = re.sub(r"//[^/@\s]*@", "//", text)  # credentials in an address
        return re.sub(r"\s+", " ", text).rstrip(". ")[:400]


def explain_setup_error(error: BaseException, uri: str) -> ConfigError:
    """What is wrong with the environment that no client can be made of it."""
    remedy = "Correct AWS_ENDPOINT_URL: http(s)://host[:port]" if isinstance(error, ValueError) else _remedy(error)[0]
    return ConfigError(f"cannot open {uri}: {re.sub(r'//[^/@]*@', '//', str(error))}. {remedy}")


def _innermost(error: BaseException) -> BaseException:
    """What a managed transfer failed of: it wraps the server's answer."""
    if isinstance(error, Boto3Error):
        return getattr(error, "last_exception", None) or error.__cause__ or error.__context__ or error
    return error


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_named(error: boto.ClientError) -> bool:
    """Whether the answer says in XML what is wrong, as S3 does (but to a HEAD request)."""
    return bool(_code(error)) and not _code(error).isdigit()


def _is_corrupt(error: BaseException) -> bool:
    if isinstance(error, boto.ClientError):
        return _code(error) in _CORRUPT
    return isinstance(error, CorruptTransfer | boto.FlexibleChecksumError)


def _passes(error: BaseException) -> bool:
    """Whether the same request may succeed later, with nothing corrected."""
    if isinstance(error, boto.ClientError):
        status = _status(error)
        return (
            _code(error) in _PASSING | _CORRUPT or status in (408, 429) or (status >= 500 and status not in (501, 505))
        )
    if isinstance(error, boto.SSLError):
        return False
    lost = (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError)
    return _is_corrupt(error) or isinstance(error, lost)


def _remedy(error: BaseException) -> tuple[str, type[ConfigError] | type[StorageError]]:
    if isinstance(error, boto.ClientError):
        if _passes(error):
            return (AWAY if _is_named(error) else f"It is in trouble, or no S3 server. {AWAY}"), StorageError
        if (known := REMEDIES.get(_code(error))) is not None:
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
            "Compare the server's disks, its memory and the network's: what it sends is not what was written",
            StorageError,
        )
    return AWAY, StorageError
