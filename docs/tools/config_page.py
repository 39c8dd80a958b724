"""Write docs/reference/config.md from the config's models: their types, bounds, defaults and docstrings."""

import json
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dataops.config import tables_of
from docs.tools.markdown import escape_html, fill, format_table
from flows.config import RunConfig
from plugins.init.schema import documented_fields, meaning, table_summary
from tasks.extract.config import SOURCE_KINDS

_INTRO = """# Config keys

A run is configured by one TOML file. `pairmill run mine.toml --set train.epochs=3` overrides one
key. All errors are reported together, each with the key, the value and what is allowed.

This page lists every key: its type, its default and its meaning. A key without a default is
required. A default of "not set" means that the key may be left out; TOML has no value for it.
`pairmill config show mine.toml` prints a file with all keys, and
`pairmill config schema` the JSON Schema for editors. Complete files to start from are
`configs/demo.toml`, `configs/common-crawl.toml`, `configs/pairs.toml`, `configs/site.toml` and
`configs/archive.toml`.

A table of a stage may be left out if its defaults are right, or if the run stops before that stage
(`--until`).
"""


def render() -> str:
    """Return the page."""
    return "\n".join([_INTRO, *_sections("", RunConfig)])


def _sections(path: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield the section of a table, then those of the tables in it."""
    fields = documented_fields(model)
    if not path:
        yield _section(
            "Top level", "", {name: field for name, field in fields.items() if not tables_of(field.annotation)}, path
        )
    elif not fields:
        yield f"## `[{path}]`\n\n{escape_html(fill(table_summary(model)))}\n\nThe table has no keys.\n"
    else:
        yield _section(_heading(path, model), table_summary(model), fields, path)
    for name, field in fields.items():
        inner = f"{path}.{name}".lstrip(".")
        if inner == "source":
            yield from _source_sections()
        else:
            for table in tables_of(field.annotation):
                yield from _sections(inner, table)


def _source_sections() -> Iterator[str]:
    """Yield the keys that all kinds of source share, then those of each kind."""
    kinds = {kind: documented_fields(model) for kind, model in SOURCE_KINDS.items()}
    shared = set.intersection(*(set(fields) for fields in kinds.values())) - {"kind"}
    first = next(iter(kinds.values()))
    links = ", ".join(f"[`{kind}`](#source-of-kind-{kind})" for kind in kinds)
    doc = (
        "Where the pairs come from: one table, or one `[[source]]` for each of [several sources](../data/sources.md). The "
        f"key `kind` is required: {links}. All kinds have these keys:"
    )
    yield _section("`[source]`", doc, {name: first[name] for name in first if name in shared}, "source")
    for kind, fields in kinds.items():
        own = {name: field for name, field in fields.items() if name not in shared | {"kind"}}
        yield _section(f"`[source]` of kind {kind}", fields["kind"].description or "", own, "source")
        for name, field in own.items():
            for table in tables_of(field.annotation):
                yield from _sections(f"source.{name}", table)


def _section(heading: str, doc: str, fields: dict[str, FieldInfo], path: str) -> str:
    table = format_table(
        ("key", "type", "default", "meaning"),
        [(f"`{name}`", *_type_and_default(field, f"{path}.{name}"), meaning(field)) for name, field in fields.items()],
    )
    return "\n\n".join(part for part in (f"## {heading}", escape_html(fill(doc)), table) if part)


def _heading(path: str, model: type[BaseModel]) -> str:
    return f"`[[{path}]]`" if f"[[{path}]]" in (model.__doc__ or "") else f"`[{path}]`"


def _type_and_default(field: FieldInfo, path: str) -> tuple[str, str]:
    if tables := tables_of(field.annotation):
        anchor = path.strip(".").replace(".", "")
        default = "required" if field.is_required() else "not set" if field.default is None else "its defaults"
        return f"[table{'s' if len(tables) == 1 and _is_list(field) else ''}](#{anchor})", default
    return _format_type(_schema(field)), _format_default(field)


def _is_list(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) in (list, tuple)


def _schema(field: FieldInfo) -> dict[str, Any]:
    """Return the JSON schema of a field, with the bounds that its type and its metadata give."""
    holder = type("Holder", (BaseModel,), {"__annotations__": {"value": typing.Annotated[field.annotation, field]}})
    return holder.model_json_schema(by_alias=False)["properties"][next(iter(holder.model_fields))]


def _format_type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_format_type(kind) for kind in schema["anyOf"] if kind.get("type") != "null")
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type", "value")
    if kind == "array" and "prefixItems" in schema:
        return "[" + ", ".join(_format_type(item) for item in schema["prefixItems"]) + "]"
    if kind == "array":
        return f"list of {_format_type(schema.get('items', {}))}"
    if kind == "object":
        return f"table of {_format_type(schema.get('additionalProperties') or {})}"
    if kind == "string" and schema.get("format") == "path":
        return "path"
    return f"{kind}{_format_bounds(schema)}"


def _format_bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if schema.get("type") == "integer" and above is not None:
        low, above = above + 1, None
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}"
    bounds = [
        f"{word} {_number(bound)}"
        for word, bound in (("at least", low), ("above", above), ("at most", high), ("below", below))
        if bound is not None
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def _number(value: float) -> str:
    """Return a number with thousands separators, and a power of two from 2^20 on as one."""
    whole = int(value)
    if whole == value and whole >= 1 << 20 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    return f"{whole:,}" if whole == value else f"{value:g}"


def _format_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "not set"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """Return a default as a TOML value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)
