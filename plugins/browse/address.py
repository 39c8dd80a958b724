"""The query string of a page: what it shows. Every value from it is checked against what the dataset has."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from dataops.errors import ConfigError
from plugins.browse.filters import MAX_FILTERS, MAX_VALUE, parse_filter, parse_terms
from plugins.browse.rows import MAX_OFFSET, Selection
from plugins.browse.site import Query, Site


@dataclass(frozen=True)
class Address:
    """The parameters of a page as text. Empty ones are left out of links."""

    rows: str = ""
    """Label of the view."""
    q: str = ""
    """Text in captions."""
    m: str = ""
    """Text that the images should match."""
    like: str = ""
    f: tuple[str, ...] = field(default=())
    sort: str = ""
    values: str = ""
    """Column whose values are shown."""
    o: int = 0

    @classmethod
    def parse(cls, parameters: QueryParams) -> "Address":
        """Read the parameters. Raises: ConfigError if there are too many, or one is no number or too long."""
        texts = {name: parameters.get(name, "").strip() for name in ("rows", "q", "m", "like", "sort", "values")}
        filters = tuple(dict.fromkeys(text for text in parameters.getlist("f") if text))
        column, operator = parameters.get("column", ""), parameters.get("operator", "")
        if column:  # the form that adds a filter
            filters = (*filters, f"{column}~{operator}~{parameters.get('value', '')}")
        if len(filters) > MAX_FILTERS or any(len(text) > 2 * MAX_VALUE for text in (*texts.values(), *filters)):
            raise ConfigError(f"at most {MAX_FILTERS} filters of {MAX_VALUE:,} characters are possible")
        return cls(**texts, f=filters, o=parse_offset(parameters))

    def query(self, site: Site) -> Query:
        """Return what to find. Raises: ConfigError if a value is not one that the dataset has."""
        view = site.dataset.view(self.rows or site.dataset.main)
        filters = tuple(parse_filter(text, view.columns) for text in self.f)
        sort, _, order = self.sort.partition("~")
        selection = Selection(view, tuple(parse_terms(self.q)), filters, sort, order != "up")
        return Query(selection, self.m, self.like)

    def link(self, path: str = "/", **changes: Any) -> str:
        """Return the URL of a page with these parameters changed; it begins at the first row unless `o` is given."""
        return f"{path}?{text}" if (text := self.text(**changes)) else path

    def text(self, **changes: Any) -> str:
        """Return the query string."""
        return urlencode(self.pairs(**changes))

    def pairs(self, **changes: Any) -> Sequence[tuple[str, str]]:
        """Return names and values of the parameters that are not empty."""
        one = replace(self, **{"o": 0, **changes})
        names = ("rows", "q", "m", "like", "sort", "values")
        found = [(name, getattr(one, name)) for name in names] + [("f", text) for text in one.f]
        return [(name, text) for name, text in [*found, ("o", str(one.o or ""))] if text]

    def without(self, filter_text: str) -> str:
        """Return the URL of the page without one of its filters."""
        return self.link(f=tuple(text for text in self.f if text != filter_text))


def parse_offset(parameters: QueryParams) -> int:
    """Return the row at which a page begins. Raises: ConfigError."""
    return parse_whole(parameters.get("o", "") or "0", "o", MAX_OFFSET)


def parse_whole(text: str, what: str, highest: int) -> int:
    """Return a whole number from 0 to `highest`. Raises: ConfigError."""
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > highest:
        raise ConfigError(f"{what}={text[:40]!r} is not a whole number from 0 to {highest:,}")
    return int(text)
