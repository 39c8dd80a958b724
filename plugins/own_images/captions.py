"""Find captions in a `.txt`, in a `.json`, or in a row of a list, and write a row of `pairs` for each."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from dataops.errors import ConfigError
from dataops.reasons import Reason
from dataops.web.captions import normalise_caption
from dataops.web.urls import truncate_url
from plugins.own_images.lists import quote
from plugins.own_images.reasons import BAD_CAPTION
from tasks.extract.sources.pairs_writer import PairsWriter

MAX_CAPTION_BYTES = 1 << 20
"""Maximum size of a file with captions, in bytes."""
MAX_CAPTIONS = 1_000
"""Maximum number of captions of an image; further ones are counted as `captions_left_out`."""
CAPTION_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("caption", "captions", "text", "texts"), "pair_list"),
    **dict.fromkeys(("alt_text", "alt", "alt text"), "alt"),
    "title": "title",
    "description": "description",
}
"""Usual names of columns and keys with captions, in lower case, and the caption_source of each."""
_NUMBERED = re.compile(r"(?:caption|text)[ _-]?[0-9]{1,3}")
_PAGES = ("url", "page_url")
_BATCH = 8_192
_WEB = re.compile(r"https?://[^\s/]\S{0,2047}")


class Described(NamedTuple):
    """What is stated of an image: captions with their caption_source, its URL or page on the web, its licence."""

    captions: Sequence[tuple[str, str]]
    page_url: str | None = None
    license: str | None = None

    @classmethod
    def merge(cls, found: Iterable["Described | None"]) -> "Described":
        """Return what several files state: all captions, and the first URL and licence. None is a file without any."""
        stated = [one for one in found if one is not None]
        return cls(
            [caption for one in stated for caption in one.captions],
            next((one.page_url for one in stated if one.page_url), None),
            next((one.license for one in stated if one.license), None),
        )


def find_caption_names(names: Sequence[str], configured: Sequence[str], where: str) -> list[str]:
    """Return the names of the columns with captions.

    Raises: ConfigError that lists the names if one of the configured is missing or there twice, or none is usual.
    """
    if configured:
        missing = [name for name in configured if name not in names]
    else:
        configured = [name for name in names if _kind(name)]
        missing = [] if configured else [*CAPTION_NAMES]
    if twice := [name for name in configured if names.count(name) > 1]:
        raise ConfigError(f"{where}: several columns named {twice[0]}; its columns of text: {quote(names)}. Rename one")
    if missing:
        what = f"no column named {', '.join(missing)}"
        raise ConfigError(
            f"{where}: {what}; its columns of text: {quote(names)}. Choose from them with source.caption_columns"
        )
    return [*configured]


def find_column(names: Sequence[str], configured: str | None, usual: Sequence[str], where: str, key: str) -> str:
    """Return the name of a column. Raises: ConfigError that lists the names, and the key to set."""
    found = [name for name in names if name == configured or (not configured and name.strip().lower() in usual)]
    if len(found) == 1:
        return found[0]
    wanted = configured or ", ".join(usual)
    what = "several columns" if found else "no column"
    raise ConfigError(
        f"{where}: {what} named {wanted}; its columns of text: {quote(names)}. Choose one with source.{key}"
    )


def _kind(name: str) -> str | None:
    """Return the caption_source of a column with a usual name; None for any other."""
    name = name.strip().lower()
    return CAPTION_NAMES.get(name) or ("pair_list" if _NUMBERED.fullmatch(name) else None)


def describe(values: Mapping[str, object], names: Sequence[str]) -> Described:
    """Return what a row or a JSON object states of an image.

    Args:
        names: columns or keys with captions, each a text or a list of texts; others have no caption.
    """
    captions: list[tuple[str, str]] = []
    for name in names:
        value = values.get(name)
        texts = value if isinstance(value, list) else [value]
        captions += [(text, _kind(name) or "pair_list") for text in texts if isinstance(text, str)]
    page = next((url for name in _PAGES if (url := _web(values.get(name)))), None)
    return Described(captions, page, _web(values.get("license")))


def _web(value: object) -> str | None:
    return value if isinstance(value, str) and _WEB.fullmatch(value) else None


def parse_caption_file(name: str, data: bytes, columns: Sequence[str]) -> Described | None:
    """Return what a `.txt` or `.json` states; None if it cannot be read.

    Args:
        columns: keys with captions that the config names.
    """
    if len(data) > MAX_CAPTION_BYTES:
        return None
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if not name.lower().endswith(".json"):
            return Described([(text, "pair_list")])
        value = orjson.loads(text)
    except ValueError:
        return None
    if isinstance(value, dict):
        return describe(value, columns or [key for key in value if _kind(key)])
    return describe({"captions": value}, ["captions"]) if isinstance(value, str | list) else None


@dataclass
class ImageRows:
    """Rows of the images of one source file, in batches.

    Args:
        limits: maximum characters of a caption and of a URL.
    """

    writer: PairsWriter
    limits: tuple[int, int]
    _rows: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def add(self, url: str, offset: int, found: Described | None, reason: str | None = None) -> None:
        """Add a row for each caption of an image, equal captions once; one without a caption is dropped.

        Args:
            found: None if its captions cannot be read.
            reason: the drop reason of all rows.
        """
        reason = reason or (BAD_CAPTION if found is None else None)
        captions, page, license_ = found or Described([])
        texts = dict[str, str]()
        for text, kind in captions:
            if (caption := normalise_caption(text, self.limits[0])) and len(texts) < MAX_CAPTIONS:
                texts.setdefault(caption, kind)
            elif caption and caption not in texts:
                self.writer.count("captions_left_out")
        if len(url) > self.limits[1]:
            url, reason = truncate_url(url, self.limits[1]), Reason.URL_TOO_LONG
        for caption, kind in texts.items() or [("", "pair_list")]:
            row: dict[str, object] = {
                "url": url,
                "caption": caption,
                "caption_source": kind,
                "source_offset": offset,
                "page_url": page,
            }
            self._rows.append(
                row | {"license": license_, "drop_reason": reason or (None if caption else Reason.NO_CAPTION)}
            )
        if len(self._rows) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._rows:
            self.writer.add_rows(self._rows)
        self._rows = []
