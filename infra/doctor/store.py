"""Checks of the store for `pairmill doctor`: it can be written, lets one of two writers win, and agrees on the time."""

import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dataops.errors import PairmillError
from dataops.store import Store, open_store
from infra.doctor.check import Check
from infra.doctor.machine import nearest_existing

SKEW_S = 60
"""Clocks further apart are told. S3 refuses requests that are 15 minutes off; until then times in records are wrong."""


def check_store(uri: str, open_: Callable[[str], Store] = open_store) -> list[Check]:
    """Whether the store keeps its promises; written to and deleted from, unless it is a folder that is not there yet."""
    folder = None if "://" in uri else Path(uri).expanduser().absolute()
    if folder is not None and not folder.exists():
        parent = nearest_existing(folder)
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return [Check("store", True, "error", f"{folder} will be made")]
        detail = f"{folder} does not exist and {parent} is not a folder that you may write in"
        return [Check("store", False, "error", detail, "set store.uri in the config to a folder that you own")]
    try:
        store = open_(uri)
        store.check_writable()
        checks = [Check("store", True, "error", f"{uri} can be written"), check_one_winner(store)]
    except PairmillError as error:
        remedy = "see the message; for s3:// check AWS_ENDPOINT_URL, credentials and that the bucket exists"
        if folder is not None:
            remedy = f"sudo chown -R $(id -u) {folder}, or set store.uri in the config to a folder that you own"
        return [Check("store", False, "error", str(error), remedy)]
    return [*checks, *([check_clock(uri)] if uri.startswith("s3://") else [])]


def check_one_winner(store: Store) -> Check:
    """Whether of two writers of a new object one loses: what keeps two runs on one snapshot apart.

    Some S3 servers take the header `If-None-Match: *` and ignore it: rclone's, older MinIO, some gateways.
    """
    name = f"_probe/{secrets.token_hex(8)}"
    try:
        won = [store.create(name, b"1"), store.create(name, b"2")]
    finally:
        store.delete_tree("_probe")
    if won == [True, False]:
        return Check("store races", True, "error", "of two writers of one object the first wins")
    return Check(
        "store races",
        False,
        "error",
        f"{store.uri} ignores `If-None-Match: *`: of two runs that make the same snapshot both would believe to have won",
        "use an S3 that honours conditional puts (Amazon S3, SeaweedFS, a recent MinIO or Ceph), or a folder",
    )


def check_clock(uri: str, client: Any = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Check:
    """How far this machine's clock is from the S3 server's."""
    from boto3.session import Session
    from botocore.exceptions import BotoCoreError, ClientError

    s3: Any = client or Session().client("s3")
    try:
        answer = s3.head_bucket(Bucket=urlsplit(uri).netloc)
        date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (BotoCoreError, ClientError, KeyError, ValueError) as error:
        return Check("clock", True, "warning", f"the store does not tell the time ({error})")
    skew = (now() - date).total_seconds()
    if abs(skew) <= SKEW_S:
        return Check("clock", True, "warning", "agrees with the store's")
    detail = f"this machine's clock is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} the store's"
    return Check("clock", False, "warning", detail, "set this machine's clock: sudo timedatectl set-ntp true")
