"""The `[source]` table, or the list of `[[source]]` tables: one registered class per kind of source."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Self, Union

from pydantic import BaseModel, Field, GetPydanticSchema, SerializationInfo
from pydantic_core import core_schema

from dataops.config import StageConfig
from dataops.errors import PairmillError
from dataops.plugins import load
from tasks.extract.sources.base import NAME, Source

SOURCE_KINDS: Mapping[str, type[Source]] = load("sources")
"""The registered kinds of source, by the value of the key `kind`."""
AnySource: Any = Union[tuple(SOURCE_KINDS.values())]  # noqa: UP007  # of a tuple of types

MAX_SOURCES = 64
"""Maximum number of sources: their order has six bits in the ranks of captions (dataops.text.duplicates)."""


class Sources(StageConfig):
    """Two sources or more, each with a name of its own, in the order in which their duplicates are kept."""

    tables: tuple[Source, ...]

    def key_config(self) -> dict[str, Any]:
        return {"sources": [table.key_config() for table in self.tables]}

    def within(self, run: Any) -> Self:
        return self.signing_as(run.download)

    def signing_as(self, other: BaseModel) -> Self:
        """Return the sources, whose requests are signed as those of another config."""
        return self.model_copy(update={"tables": tuple(table.signing_as(other) for table in self.tables)})

    def problems(self) -> list[str]:
        """Return what is wrong with the paths of all sources, one line each, relative to `source.`."""
        return [f"{table.name}.{line}" for table in self.tables for line in table.problems()]


def name_tables(tables: Sequence[object]) -> list[str]:
    """Return the name of each table of a list: its own if it is valid, else its kind, with a number from the second on.

    Args:
        tables: `[[source]]` as it is in the config; it may be wrong.
    """
    kinds, names = Counter[str](), list[str]()
    for number, table in enumerate(tables):
        values = table if isinstance(table, Mapping) else {}
        name, kind = values.get("name"), values.get("kind")
        if isinstance(name, str) and NAME.fullmatch(name):
            names.append(name)
        elif isinstance(kind, str) and kind in SOURCE_KINDS:
            kinds[kind] += 1
            names.append(kind if kinds[kind] == 1 else f"{kind}-{kinds[kind]}")
        else:
            names.append(str(number))
    return names


def _read_tables(value: object, validate: core_schema.ValidatorFunctionWrapHandler) -> Source | Sources:
    """Validate one table or a list of tables; a list of one is that table.

    Raises: ValueError if there is none, or two have one name.
    """
    if isinstance(value, Source | Sources):
        return value
    if isinstance(value, list | tuple) and not value:
        raise ValueError("there must be a table [source], or one [[source]] for each source")
    tables: tuple[Source, ...] = validate(value if isinstance(value, list | tuple) else [value])
    if len(tables) == 1:
        return tables[0]
    names = name_tables([{"name": table.name, "kind": table.kind} for table in tables])
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two sources are named {repeated[0]!r}; set another `name` in one of their tables")
    return Sources(
        tables=tuple(table.model_copy(update={"name": name}) for table, name in zip(tables, names, strict=True))
    )


def name_source_path(text: str, tables: object) -> str:
    """Return a text with the name of a source where a path of the config has its index: `source.crawl` for `source.0`.

    Args:
        tables: `source` as it is in the config; the path of a single table has no index.
    """
    names = [f".{name}" for name in name_tables(tables)] if isinstance(tables, list | tuple) and len(tables) > 1 else []
    return re.sub(r"(?<![\w.])source\.(\d+)(?![\w-])", lambda m: f"source{''.join(names[int(m[1]) :][:1])}", text)


def _write_tables(config: Source | Sources, info: SerializationInfo) -> Any:
    """Return the sources as they are in the config."""
    tables = [table.model_dump(mode="json", context=info.context) for table in config.tables]
    return tables if isinstance(config, Sources) else tables[0]


def _source_schema(_: Any, handler: Any) -> core_schema.CoreSchema:
    one = Annotated[AnySource, Field(discriminator="kind")]
    several = handler(Annotated[tuple[one, ...], Field(max_length=MAX_SOURCES)])
    return core_schema.no_info_wrap_validator_function(
        _read_tables,
        several,
        serialization=core_schema.plain_serializer_function_ser_schema(_write_tables, info_arg=True),
    )


def _json_schema(schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
    several = handler(schema)
    return {"anyOf": [several["items"], several]}


# Not a union with Sources, which has no key of its own in a config.
SourceConfig = Annotated[AnySource, GetPydanticSchema(_source_schema, _json_schema)]
"""The table `[source]`, whose key `kind` selects the class; or `[[source]]`, a list of such tables (a Sources)."""


def table_path(table: Source, config: Source | Sources) -> str:
    """Return the path in the config of one of its sources."""
    return f"source.{table.name}" if isinstance(config, Sources) else "source"


@contextmanager
def naming_table(table: Source, path: str) -> Iterator[None]:
    """Name the table in the errors that are raised inside: `source.crawl.paths` for `source.paths`.

    Args:
        path: its path in the config.
    """
    try:
        yield
    except PairmillError as error:
        fields = "|".join(type(table).model_fields)
        error.args = tuple(re.sub(rf"(?<![\w./-])source\.(?=(?:{fields})\b)", f"{path}.", str(a)) for a in error.args)
        raise
