"""Choose the place of `pairmill publish --to`: a repository of the Hub, a prefix in S3, or a folder."""

import re
from pathlib import Path

from dataops.errors import ConfigError
from dataops.store import open_store
from plugins.publish.hub import HubPlace
from plugins.publish.places import Kind, Place, StorePlace
from tasks.lineage.publications import HUB

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def open_place(target: str, kind: Kind, *, is_public: bool) -> Place:
    """Return the place of `--to`.

    Raises: ConfigError if the target is not one of the three forms.
    """
    if target.startswith(HUB):
        repository = target.removeprefix(HUB)
        if not _REPOSITORY.fullmatch(repository):
            raise ConfigError(f"--to {target} names no repository; write hub:OWNER/NAME")
        return HubPlace(repository, kind, is_public=is_public)
    if is_public:
        raise ConfigError("--public is for hub:OWNER/NAME; who can read a folder or bucket is set there")
    if target.startswith("s3://"):
        return StorePlace(open_store(target), target.rstrip("/"))
    if "://" in target or not target.strip():
        raise ConfigError(f"--to {target!r} is none of hub:OWNER/NAME, s3://bucket/prefix and a folder")
    folder = Path(target).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--to {target} is a file; name a folder")
    return StorePlace(open_store(str(folder)), str(folder))
