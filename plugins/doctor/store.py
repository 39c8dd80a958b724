"""Checks of the store for `pairmill doctor`: it is writable, only one of two writers wins, and its clock agrees."""

import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dataops.errors import PairmillError
from dataops.storage.base import PROBES
from dataops.store import Store, open_store
from plugins.doctor.check import Check
from plugins.doctor.machine import nearest_existing

SKEW_S = 60
"""Clock difference from which on the check warns, in seconds. S3 refuses requests whose time is 15 minutes off."""


def check_store(uri: str, open_: Callable[[str], Store] = open_store) -> list[Check]:
    """Check that the store works, by writing and deleting objects, unless it is a folder that does not exist yet."""
    folder = None if "://" in uri else Path(uri).expanduser().absolute()
    if folder is not None and not folder.exists():
        parent = nearest_existing(folder)
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return [Check("store", True, "error", f"{folder} will be created")]
        detail = f"{folder} does not exist and {parent} is not a folder in which you can create it"
        return [Check("store", False, "error", detail, "set store.uri in the config to a folder that you own")]
    try:
        store = open_(uri)
        store.check_writable()
        checks = [Check("store", True, "error", f"{uri} is writable"), check_one_winner(store)]
    except PairmillError as error:
        remedy = (
            "for s3:// check AWS_ENDPOINT_URL, the credentials, and that the bucket exists; for others see the message"
        )
        if folder is not None:
            remedy = f"sudo chown -R $(id -u) {folder}, or set store.uri in the config to a folder that you own"
        return [Check("store", False, "error", str(error), remedy)]
    return [*checks, *([check_clock(uri)] if uri.startswith("s3://") else [])]


def check_one_winner(store: Store) -> Check:
    """Check that only one of two writers of a new object succeeds, which keeps two runs from making one snapshot.

    Some S3 servers ignore the header `If-None-Match: *`: rclone's, older MinIO, some gateways.
    """
    name = f"{PROBES}/{secrets.token_hex(8)}"
    try:
        won = [store.create(name, b"1"), store.create(name, b"2")]
    finally:
        store.delete_probe(name)
    if won == [True, False]:
        return Check("store races", True, "error", "only the first of two writers of an object succeeds")
    return Check(
        "store races",
        False,
        "error",
        f"{store.uri} ignores `If-None-Match: *`, so two runs may make the same snapshot at the same time",
        "use an S3 server with conditional puts (Amazon S3, SeaweedFS, a recent MinIO or Ceph), or a folder",
    )


def check_clock(uri: str) -> Check:
    """Check the difference between this machine's clock and that of the S3 server."""
    from boto3.session import Session
    from botocore.exceptions import BotoCoreError, ClientError

    s3: Any = Session().client("s3")
    try:
        answer = s3.head_bucket(Bucket=urlsplit(uri).netloc)
        date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (BotoCoreError, ClientError, KeyError, ValueError) as error:
        return Check("clock", True, "warning", f"the store's answer has no time ({error})")
    skew = (datetime.now(UTC) - date).total_seconds()
    if abs(skew) <= SKEW_S:
        return Check("clock", True, "warning", "agrees with that of the store")
    detail = f"this machine's clock is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} that of the store"
    return Check("clock", False, "warning", detail, "set this machine's clock: sudo timedatectl set-ntp true")
