"""One text for one value, one digest for one file. Standard library only: a registered model ships this file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dataops.regular_files import open_regular


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no white space: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def text_sha256(text: str) -> str:
    """Return the hex sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a local file. Raises: OSError, also if it is no regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
