"""Parse what a page asks for into a SQL condition: a closed set of columns and operators, with all values as parameters."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dataops.errors import ConfigError
from plugins.browse.database import quote

Kind = Literal["text", "number", "list", "other"]
_ANY_KIND = {"none": ("has no value", "{} IS NULL"), "any": ("has a value", "{} IS NOT NULL")}
OPERATORS: dict[Kind, dict[str, tuple[str, str]]] = {
    "text": {
        "is": ("is", "{} = ?"),
        "not": ("is not", "{} IS DISTINCT FROM ?"),
        "has": ("contains", "contains(lower({}), lower(?))"),
        "without": ("does not contain", "NOT coalesce(contains(lower({}), lower(?)), false)"),
        "starts": ("starts with", "starts_with({}, ?)"),
        **_ANY_KIND,
    },
    "number": {
        "is": ("=", "{} = ?"),
        "min": ("≥", "{} >= ?"),
        "max": ("≤", "{} <= ?"),
        "not": ("≠", "{} IS DISTINCT FROM ?"),
        **_ANY_KIND,
    },
    "list": {
        "has": ("contains", "list_contains({}, ?)"),
        "without": ("does not contain", "NOT coalesce(list_contains({}, ?), false)"),
        **_ANY_KIND,
    },
    "other": _ANY_KIND,
}
"""The operators of each kind of column, with what a page calls them, and their conditions of SQL."""
VALUELESS = frozenset({"none", "any"})
MAX_FILTERS, MAX_VALUE, MAX_TERMS = 20, 1000, 12
_INTEGER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?")


@dataclass(frozen=True)
class Filter:
    """One condition on a column."""

    column: str
    operator: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.column}~{self.operator}~{self.value}"


@dataclass(frozen=True)
class Condition:
    """A condition of SQL and its parameters; an empty one is true for all rows."""

    sql: str = ""
    parameters: tuple[Any, ...] = ()

    def __and__(self, other: "Condition") -> "Condition":
        both = " AND ".join(f"({one.sql})" for one in (self, other) if one.sql)
        return Condition(both, self.parameters + other.parameters)

    @property
    def where(self) -> str:
        """The clause WHERE, or nothing."""
        return f"WHERE {self.sql}" if self.sql else ""


def kind_of(column_type: str) -> Kind:
    """Return the kind of a column by its type in SQL."""
    if column_type == "VARCHAR":
        return "text"
    if _INTEGER.fullmatch(column_type) or column_type in ("FLOAT", "DOUBLE"):
        return "number"
    if column_type.endswith("[]") and kind_of(column_type[:-2]) in ("text", "number"):
        return "list"
    return "other"


def parse_filter(text: str, columns: Mapping[str, str]) -> Filter:
    """Parse `column~operator~value`.

    Args:
        columns: the types of the columns by their names.

    Raises: ConfigError that lists what is allowed.
    """
    column, operator, value = [*text.split("~", 2), "", ""][:3]
    if column not in columns:
        raise ConfigError(f"filter {text[:80]!r}: there is no column {column[:40]!r}; columns: {', '.join(columns)}")
    kind = kind_of(columns[column])
    if operator not in OPERATORS[kind]:
        raise ConfigError(
            f"filter {text[:80]!r}: {column} has no operator {operator[:40]!r}; operators: {', '.join(OPERATORS[kind])}"
        )
    if len(value) > MAX_VALUE:
        raise ConfigError(f"filter of {column}: its value has more than {MAX_VALUE:,} characters")
    found = Filter(column, operator, "" if operator in VALUELESS else value)
    condition(found, columns)
    return found


def condition(one: Filter, columns: Mapping[str, str]) -> Condition:
    """Return the condition of a filter. Raises: ConfigError if its value is no number where one is needed."""
    column_type = columns[one.column]
    kind = kind_of(column_type)
    sql = OPERATORS[kind][one.operator][1].format(quote(one.column))
    if one.operator in VALUELESS:
        return Condition(sql)
    if "number" not in (kind, kind_of(column_type.removesuffix("[]"))):
        return Condition(sql, (one.value,))
    if column_type == "FLOAT":  # 0.3 of 32 bits is not the 0.3 of 64
        sql = sql.replace("?", "?::FLOAT")
    return Condition(sql, (parse_number(one.value, one.column),))


def parse_number(text: str, what: str) -> float | int:
    """Return a finite number. Raises: ConfigError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) >= 2**63:
        raise ConfigError(f"filter of {what}: {text[:40]!r} is not a number")
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text.strip()) else value


def parse_terms(text: str) -> list[str]:
    """Return the terms of a search by text: words, and phrases in double quotes; all of them must be in a caption."""
    terms = [phrase or word for phrase, word in re.findall(r'"([^"]+)"|([^\s"]+)', text[:MAX_VALUE])]
    return terms[:MAX_TERMS]


def match_terms(terms: Sequence[str]) -> Condition:
    """Return the condition that the caption contains all terms, whatever their case."""
    found = Condition()
    for term in terms:
        found &= Condition("contains(lower(caption), lower(?))", (term,))
    return found
