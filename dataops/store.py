"""The one door to storage: a folder, or a prefix in an S3 bucket."""

import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from dataops.errors import ConfigError
from dataops.storage.base import Entry, Store, check_name
from dataops.storage.folder import FolderStore

__all__ = ["Entry", "FolderStore", "Store", "check_name", "open_store"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# Source: Amazon S3 user guide, "General purpose bucket naming rules".


@lru_cache(maxsize=8)
def open_store(uri: str) -> Store:
    """Return the store at `uri`: a folder, or s3://bucket/prefix (endpoint and credentials from the environment, AWS_*).

    Raises: ConfigError when the address is neither, or the environment is no use.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not _BUCKET.fullmatch(parts.netloc) or ".." in uri or parts.query or parts.fragment:
            raise ConfigError(f"store.uri {uri!r} names no bucket and plain prefix; write s3://bucket/prefix")
        from dataops.storage.s3 import S3Store  # boto3 takes half a second to load, in every worker process

        return S3Store(parts.netloc, parts.path)
    if parts.scheme not in ("", "file") or not uri.strip():
        raise ConfigError(f"store.uri {uri!r} is neither a folder nor s3://bucket/prefix")
    return FolderStore(Path(parts.path if parts.scheme == "file" else uri))
