"""Finds the URL, caption and page columns of a pair list, by the config or by the names that published lists use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dataops.errors import ConfigError

URL_NAMES = ("url", "image_url", "img_url", "imageurl", "image url")
CAPTION_NAMES = ("text", "caption", "alt_text", "alt", "alt text")
PAGE_NAMES = ("page_url", "pageurl", "page url")

_URL_STARTS = ("http://", "https://")


@dataclass(frozen=True)
class ColumnNames:
    """The columns that the config names; None for a column to find by its usual names.

    Attributes:
        url: name, or position from 0 in a list without a header.
        caption: name, or position from 0 in a list without a header.
        extra: names of further columns to keep.
        more: names of the columns with further captions, by their caption_source.
    """

    url: str | int | None = None
    caption: str | int | None = None
    extra: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """The positions of the columns in a list, and whether its first row is a header."""

    url: int
    caption: int
    page: int | None
    extra: tuple[int, ...]
    width: int
    has_header: bool = True
    more: tuple[int, ...] = ()
    """In the order of ColumnNames.more."""


def find_columns(names: Sequence[str], configured: ColumnNames, file: str) -> Columns:
    """Return the positions of the columns of a list with column names.

    Source: the data cards of LAION-400M (URL, TEXT), COYO-700M and DataComp (url, text), and img2dataset's output
    (url, caption).

    Raises: ConfigError that lists the columns and names the config key to set.
    """
    needed = (("url_column", configured.url, URL_NAMES), ("caption_column", configured.caption, CAPTION_NAMES))
    url, caption = _find(names, needed, file)
    if url == caption:
        raise ConfigError(f"{file}: source.url_column and source.caption_column are both {names[url]!r}")
    extra = _find(names, [("extra_columns", name, ()) for name in configured.extra], file)
    more = _find(names, [(f"more_captions.{kind}", name, ()) for kind, name in configured.more.items()], file)
    lower = [name.strip().lower() for name in names]
    pages = [lower.index(name) for name in PAGE_NAMES if lower.count(name) == 1]
    return Columns(url, caption, pages[0] if len(pages) == 1 else None, extra, len(names), more=more)


def find_columns_in_first_row(row: Sequence[str], configured: ColumnNames, file: str) -> Columns:
    """Return the positions of the columns of a CSV or TSV file, whose first row may be a header or a pair.

    The first row is a pair if one of its fields is a URL, as in CC12M (url, caption) and CC3M (caption, url).

    Raises: ConfigError that lists the fields and names the config keys to set.
    """
    url_positions = [i for i, field in enumerate(row) if field.strip().lower().startswith(_URL_STARTS)]
    if not url_positions:
        url_name, caption_name = _name_at(row, configured.url), _name_at(row, configured.caption)
        names = ColumnNames(url_name, caption_name, configured.extra, configured.more)
        return find_columns(row, names, file)
    if configured.extra or configured.more or isinstance(configured.url, str) or isinstance(configured.caption, str):
        raise ConfigError(
            f"{file}: has no header (its first row is {_quote(row)}), so no column has a name; "
            "set source.url_column and source.caption_column to positions, counted from 0, and no source.extra_columns or "
            "source.more_captions"
        )
    url, caption = configured.url, configured.caption
    if url is None and len(url_positions) == 1:
        url = url_positions[0]
    if caption is None and url is not None and len(row) == 2:
        caption = 1 - url
    if url is None or caption is None or url == caption or max(url, caption) >= len(row):
        raise ConfigError(
            f"{file}: has no header, and the columns of URL and caption are not clear from its first row {_quote(row)}; "
            "set source.url_column and source.caption_column to their positions, counted from 0"
        )
    return Columns(url, caption, None, (), len(row), has_header=False)


def _find(
    names: Sequence[str], needed: Sequence[tuple[str, str | int | None, Sequence[str]]], file: str
) -> tuple[int, ...]:
    """Return the position of each column.

    Args:
        needed: for each column its config key, the configured name, and the usual names.

    Raises: ConfigError that names the keys of all columns that were not found.
    """
    found = [_match(names, configured, usual) for _, configured, usual in needed]
    keys = [key for (key, _, _), where in zip(needed, found, strict=True) if isinstance(where, str)]
    problems = [where for where in found if isinstance(where, str)]
    if problems:
        to_set = " and ".join(f"source.{key}" for key in dict.fromkeys(keys))
        raise ConfigError(
            f"{file}: {'; '.join(problems)}; its columns: {_quote(names)}. Choose from them with {to_set}"
        )
    return tuple(where for where in found if isinstance(where, int))


def _match(names: Sequence[str], configured: str | int | None, usual: Sequence[str]) -> int | str:
    """Return the position of a column, or why it is not clear."""
    if isinstance(configured, int):
        return f"{configured} is a position, but the columns have names"
    if configured is not None:
        found = [i for i, name in enumerate(names) if name == configured]
        found = found or [i for i, name in enumerate(names) if name.strip().lower() == configured.strip().lower()]
        what = repr(configured)
    else:
        found = [i for i, name in enumerate(names) if name.strip().lower() in usual]
        what = f"named {', '.join(usual)}"
    if len(found) == 1:
        return found[0]
    return f"{'several columns' if found else 'no column'} {what}"


def _name_at(row: Sequence[str], column: str | int | None) -> str | None:
    """Return the name of a column that is given by name or by position; None for a position beyond the row."""
    if isinstance(column, int):
        return row[column] if column < len(row) else None
    return column


def _quote(fields: Sequence[str]) -> str:
    return ", ".join(repr(field[:60]) for field in fields[:40]) or "none"
