"""Which columns of a pair list hold the address, the caption and the page, by the names that published lists use."""

from collections.abc import Sequence
from dataclasses import dataclass

from dataops.errors import ConfigError

URL_NAMES = ("url", "image_url", "img_url", "imageurl", "image url")
CAPTION_NAMES = ("text", "caption", "alt_text", "alt", "alt text")
PAGE_NAMES = ("page_url", "pageurl", "page url")

_WEB = ("http://", "https://")


@dataclass(frozen=True)
class ColumnNames:
    """What the config says of the columns; what it does not say is recognised.

    Attributes:
        url: a name, or in a list without a header a position, counted from 0.
        caption: likewise.
        extra: further columns to carry.
    """

    url: str | int | None = None
    caption: str | int | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """Positions of the columns in a list, and whether its first row is a header."""

    url: int
    caption: int
    page: int | None
    extra: tuple[int, ...]
    width: int
    has_header: bool = True


def find_columns(names: Sequence[str], asked: ColumnNames, where: str) -> Columns:
    """The columns of a list that names them.

    Source: the data cards of LAION-400M (URL, TEXT), COYO-700M and DataComp (url, text), and img2dataset's output
    (url, caption).

    Raises: ConfigError that lists the columns and says what to set.
    """
    url = _find(names, asked.url, URL_NAMES, "url_column", where)
    caption = _find(names, asked.caption, CAPTION_NAMES, "caption_column", where)
    if url == caption:
        raise ConfigError(f"{where}: url_column and caption_column are both {names[url]!r}")
    extra = tuple(_find(names, name, (), "extra_columns", where) for name in asked.extra)
    lower = [name.strip().lower() for name in names]
    pages = [lower.index(name) for name in PAGE_NAMES if lower.count(name) == 1]
    return Columns(url, caption, pages[0] if len(pages) == 1 else None, extra, len(names))


def find_columns_in_first_row(row: Sequence[str], asked: ColumnNames, where: str) -> Columns:
    """The columns of a CSV or TSV file, whose first row may be a header or a pair.

    It is a pair where one of its fields is an address, as in CC12M (url, caption) and CC3M (caption, url).

    Raises: ConfigError that lists the fields and says what to set.
    """
    addresses = [i for i, field in enumerate(row) if field.strip().lower().startswith(_WEB)]
    if not addresses:
        if isinstance(asked.url, int) or isinstance(asked.caption, int):
            asked = ColumnNames(_name_at(row, asked.url), _name_at(row, asked.caption), asked.extra)
        return find_columns(row, asked, where)
    if asked.extra or isinstance(asked.url, str) or isinstance(asked.caption, str):
        raise ConfigError(
            f"{where}: has no header (its first row is {_shown(row)}), so no column has a name; "
            "set source.url_column and source.caption_column to positions, counted from 0, and no source.extra_columns"
        )
    url = asked.url if asked.url is not None else addresses[0] if len(addresses) == 1 else None
    caption = asked.caption if asked.caption is not None else 1 - url if url is not None and len(row) == 2 else None
    if url is None or caption is None or url == caption or max(url, caption) >= len(row):
        raise ConfigError(
            f"{where}: has no header, and in its first row {_shown(row)} address and caption cannot be told; "
            "set source.url_column and source.caption_column to their positions, counted from 0"
        )
    return Columns(url, caption, None, (), len(row), has_header=False)


def _find(names: Sequence[str], asked: str | int | None, known: Sequence[str], option: str, where: str) -> int:
    if isinstance(asked, int):
        raise ConfigError(
            f"{where}: source.{option} is the position {asked}, but its columns have names: {_shown(names)}"
        )
    if asked is not None:
        found = [i for i, name in enumerate(names) if name == asked]
        found = found or [i for i, name in enumerate(names) if name.strip().lower() == asked.strip().lower()]
        problem = f"no column {asked!r}" if not found else f"several columns {asked!r}"
    else:
        found = [i for i, name in enumerate(names) if name.strip().lower() in known]
        problem = f"no column named {', '.join(known)}" if not found else "several columns that may be meant"
    if len(found) != 1:
        raise ConfigError(f"{where}: {problem}; its columns: {_shown(names)}. Set source.{option} to one of them")
    return found[0]


def _name_at(row: Sequence[str], asked: str | int | None) -> str | None:
    return row[asked] if isinstance(asked, int) and asked < len(row) else None if isinstance(asked, int) else asked


def _shown(fields: Sequence[str]) -> str:
    return ", ".join(repr(field[:60]) for field in fields[:40]) or "none"
