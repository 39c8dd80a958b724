"""Tar files of members that a test names."""

import io
import tarfile
from collections.abc import Mapping


def write_tar(path, members):
    """Write members, as pairs or a mapping of names and contents, into a new file; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
