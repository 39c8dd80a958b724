"""Have an authority state when the roots of datasets existed: a time stamp of RFC 3161."""

import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import Certificate, load_pem_x509_certificates
from rfc3161_client import (
    HashAlgorithm,
    PKIStatus,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from dataops.errors import ConfigError, ServiceError
from dataops.facts import PackFacts
from dataops.regular_files import read_bytes
from dataops.snapshot import Manifest
from plugins.claims.statement import Subject
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import send_request

MAX_TOKEN_BYTES = 1 << 20
HEADERS = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}


def list_roots(subject: Subject) -> bytes:
    """Return the text that is stamped: a line `root KEY ROOT` for each tree of each dataset.

    Raises: ConfigError if a dataset is no longer in the store, or was packed without roots.
    """
    return "".join(line for key, pack in subject.packs for line in _list_roots(key, pack)).encode()


def _list_roots(key: str, pack: Manifest | None) -> list[str]:
    stated = PackFacts.of(pack).commitments.get("claims", ()) if pack else ()
    if not stated:
        why = "was packed without roots; pack it with the plugin claims" if pack else "is no longer in the store"
        raise ConfigError(f"dataset {key} {why}")
    return [f"root {key} {one['root']}\n" for one in stated]


def load_authorities(path: Path) -> list[Certificate]:
    """Return the certificates of a PEM file. Raises: ConfigError."""
    try:
        with warnings.catch_warnings(action="ignore", category=CryptographyDeprecationWarning):  # of an old authority
            return load_pem_x509_certificates(read_bytes(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--ca {path} has no certificates in PEM: {error}") from error


def request_stamp(text: bytes, server: str, authorities: Sequence[Certificate]) -> tuple[bytes, datetime]:
    """Return the answer of a time stamp server to the SHA-256 of a text, and the time that it states.

    Args:
        authorities: one of them must have issued the server's certificate.

    Raises:
        ConfigError: the answer is no valid time stamp of this request by one of the authorities.
        ServiceError: the server did not answer.
    """
    request = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256).build()
    try:
        answer = send_request(server, request.as_bytes(), headers=HEADERS, timeout=30, limit=MAX_TOKEN_BYTES)
    except FetchError as error:
        raise ServiceError(f"--server {server} did not answer: {error}") from error
    if answer.status != 200:
        raise ServiceError(f"--server {server} answered with status {answer.status}")
    try:
        response = decode_timestamp_response(answer.body)
        if (status := PKIStatus(response.status)) != PKIStatus.GRANTED:
            raise VerificationError(f"its status is {status.name}")
    except (ValueError, VerificationError) as error:
        raise ConfigError(f"--server {server} gave no time stamp: {error}") from error
    errors = set[str]()
    for authority in authorities:
        if (error := _refuse(response, text, request.nonce, authority)) is None:
            return answer.body, response.tst_info.gen_time
        errors.add(error)
    raise ConfigError(
        f"--server {server}: its time stamp is signed by none of {len(authorities)} known authorities"
        f" ({', '.join(sorted(errors)[:3])}); name the certificate of the one that you trust with --ca"
    )


def _refuse(response: TimeStampResponse, text: bytes, nonce: int | None, authority: Certificate) -> str | None:
    try:
        VerifierBuilder(roots=[authority], nonce=nonce).build().verify_message(response, text)
    except (ValueError, VerificationError) as error:
        return str(error)
    return None
