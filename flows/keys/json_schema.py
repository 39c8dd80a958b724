"""Write the JSON Schema of the config, with which editors complete and check a TOML file."""

from functools import cache
from typing import Any

from pydantic import BaseModel

from flows.config import RunConfig
from flows.keys.documented import all_tables, documented_fields, meaning, table_summary

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


def _simplify(value: Any) -> Any:
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
