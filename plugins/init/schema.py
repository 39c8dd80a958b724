"""Write the JSON Schema of the config, with which editors complete and check a TOML file."""

import ast
import copy
import inspect
import re
import textwrap
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dataops.config import tables_of
from flows.config import RunConfig

NAMED = ("properties", "$defs")
"""Keywords whose values are schemas by the names of keys or tables."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a config file.

    It has the types, the bounds, the defaults and the meanings of all keys. What depends on several keys, on files or on
    services is checked by `pairmill run` and `pairmill plan` only.
    """
    schema = RunConfig.model_json_schema(by_alias=True)
    tables = schema["$defs"]
    for model in all_tables(RunConfig):
        _describe(schema if model is RunConfig else tables[model.__name__], model)
    for table in tables.values():
        if "const" in table["properties"].get("kind", {}):  # without it, a table could be several kinds of source
            table["required"] = ["kind", *table.get("required", [])]
    # A config's validator sets the model's name to the name of the run.
    schema["required"].remove("register")
    tables["RegisterConfig"].pop("required")
    return {"$schema": DIALECT, "title": "Config of a run of pairmill", **_simplify(schema)}


def _describe(table: dict[str, Any], model: type[BaseModel]) -> None:
    """Put the meaning of a table and of its keys into its schema."""
    table["description"] = table_summary(model)
    for name, field in documented_fields(model).items():
        key = table["properties"][name]
        if text := meaning(field):
            key["description"] = " ".join(text.split())


def _simplify(value: object) -> Any:
    """Return a schema without what pydantic adds for other uses.

    That is the names of classes, the defaults of whole tables, and null, which TOML does not have.
    """
    if isinstance(value, list):
        return [_simplify(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = dict(value)
    if isinstance(result.get("title"), str):
        del result["title"]
    result.pop("discriminator", None)
    if result.get("default", 0) is None or isinstance(result.get("default"), dict):
        del result["default"]
    kinds = [kind for kind in result.get("anyOf", []) if kind != {"type": "null"}]
    if "anyOf" in result and len(kinds) == 1:
        del result["anyOf"]
        result = {**kinds[0], **result}
    elif kinds:
        result["anyOf"] = kinds
    return {
        key: {name: _simplify(inner) for name, inner in item.items()} if key in NAMED else _simplify(item)
        for key, item in result.items()
    }


def documented_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return copies of the fields by key, each with its docstring as description."""
    fields: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        fields[field.alias or name] = described = copy.copy(field)
        described.description = field.description or _attribute_docstrings(model).get(name)
    return fields


def table_summary(model: type[BaseModel]) -> str:
    """Return the first line of the model's docstring, without the name of the table that it begins with."""
    first = (model.__doc__ or "").strip().splitlines()[0]
    bare = re.sub(r"^(?:The |One )?`\[+[a-z_.]+\]+`(?: table)?: ", "", first)
    return bare[0].upper() + bare[1:]


def meaning(field: FieldInfo) -> str:
    """Return the docstring of a field, or the docstring of its table."""
    tables = tables_of(field.annotation)
    return field.description or (table_summary(tables[0]) if tables else "")


def all_tables(root: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a model and all models in its fields, direct and indirect."""
    found = [root]
    for model in found:
        for field in model.model_fields.values():
            found += [inner for inner in tables_of(field.annotation) if inner not in found]
    return found


@cache
def _attribute_docstrings(model: type) -> dict[str, str]:
    """Return the docstrings of the attributes of a class and its bases.

    pydantic's `use_attribute_docstrings` would parse the sources at each start of the command, which takes 0.2 s.
    """
    found: dict[str, str] = {}
    for owner in model.__mro__[::-1]:
        made = "plugin_kinds" in vars(owner)  # by `extend`: it has no source, and all its fields are those of its bases
        if issubclass(owner, BaseModel) and owner is not BaseModel and not made:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
            for field, after in pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    match after:
                        case ast.Expr(ast.Constant(str(text))):
                            found[field.target.id] = inspect.cleandoc(text)
                        case _:
                            found.pop(field.target.id, None)
    return found
