"""One text for one value, one digest for one file. Standard library only: a registered model ships this file."""

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dataops.regular_files import open_regular, read_text


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no white space: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def text_sha256(text: str) -> str:
    """Return the hex sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a local file. Raises: OSError, also if it is no regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """Return the hex sha256 over the names and digests of files. Raises: OSError."""
    return text_sha256(canonical_json([[path.name, file_sha256(path)] for path in paths]))


class RememberedDigests:
    """The sha256 of files, computed again only if a file's size, modification time or inode has changed.

    The memo holds no secret, and is trusted: whoever writes it decides which files pass for
    unchanged. It belongs into a folder that only the owner of the files writes.

    Args:
        memo: JSON file that `save` writes; anything else in it is ignored.
        others: further memos to read.
    """

    SAVE_SECONDS = 60.0
    RECENT_NS = 2_000_000_000
    """A file that was modified less than this before is not remembered: its time may not show the next change."""

    def __init__(self, memo: Path, others: Iterable[Path] = ()):
        self._memo, self._lock, self._saved = memo, threading.Lock(), time.monotonic()
        self._known: dict[str, list[Any]] = {}
        for path in (*others, memo):
            self._known |= _read_memo(path)

    def sha256(self, path: Path) -> str:
        """Return the hex sha256 of a local file. Raises: as file_sha256."""
        with open_regular(path) as file:
            state = _state(file.fileno())
            known = self._known.get(str(path))
            if known is not None and known[:-1] == state:
                return known[-1]
            now = time.time_ns()
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            is_unchanged = _state(file.fileno()) == state
        with self._lock:
            if is_unchanged and state[1] < now - self.RECENT_NS:
                self._known[str(path)] = [*state, digest]
            if time.monotonic() - self._saved > self.SAVE_SECONDS:
                self._save()
        return digest

    def remember(self, path: Path, digest: str) -> None:
        """Remember the digest of a file that the caller has just written, and that nobody else writes."""
        with open_regular(path) as file, self._lock:
            self._known[str(path)] = [*_state(file.fileno()), digest]

    def save(self) -> None:
        """Write the memo, without files that are not there any more."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        part = self._memo.with_name(f".{self._memo.name}.{secrets.token_hex(4)}.part")  # machines may share the folder
        part.parent.mkdir(parents=True, exist_ok=True)
        self._known = {path: known for path, known in self._known.items() if Path(path).exists()}
        part.write_text(canonical_json(self._known), "utf-8")
        part.replace(self._memo)
        self._saved = time.monotonic()


def _state(descriptor: int) -> list[int]:
    found = os.fstat(descriptor)
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev]


def _read_memo(path: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(map(_is_known, found.values())) else {}


def _is_known(entry: object) -> bool:
    return isinstance(entry, list) and [type(value) for value in entry] == [int] * 4 + [str]
