"""Words the problems of a TOML file (a config, a suite): each with its path, the value, what is allowed, and its line."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from dataops.config import tables_of
from dataops.formatting import did_you_mean, find_closest, format_quantity
from dataops.plugins import load, missing
from dataops.toml_text import format_value

_ARTICLES = {
    kind: article
    for article, kinds in {
        "a table": "model_type model_attributes_type dict_type",
        "an array": "list_type tuple_type set_type frozen_set_type",
        "a string": "string_type path_type",
        "an integer": "int_type int_parsing int_from_float",
        "a number": "float_type float_parsing",
        "true or false": "bool_type bool_parsing",
    }.items()
    for kind in kinds.split()
}
"""What a value must be in TOML, by the kind of pydantic's error."""
_MAX_VALUE_CHARS = 200
"""Length from which a value is cut in a message."""
_FORMS = {
    "alias": "it must be up to 64 letters, digits, '_' and '-', no digit first",
    "contact": "it must be a URL or an address, such as mailto:you@example.org, without blanks",
    "license": "it must be a URL, such as https://creativecommons.org/licenses/by/4.0/",
    "model_name": "it must be up to 128 letters, digits, '.', '_', '-' and blanks, a letter or digit first",
    "name": "use up to 40 letters, digits, '_' and '-', a letter first",
    "nnodes": "it must be a number, or two as in 2:4",
    "objective": "it must be small Latin letters and '_'",
    "rdzv_endpoint": "it must be HOST:PORT, with a port from 1 to 65535",
    "source": "it must be OWNER/NAME of a dataset on Hugging Face",
    "split": "it must be the name of a folder: letters, digits, '.', '_' and '-', a letter or digit first",
    "user_agent": "it must be letters, digits, '_' and '-', such as examplebot",
}
"""What is wrong with a key that has to match a regular expression, by its last name."""


def format_problems(where: str, problems: Sequence[str], origins: Mapping[str, str]) -> str:
    """Return the message that lists problems, each a line that begins with its path.

    Args:
        origins: where a key was set, such as `line 12`, by path.
    """
    lines = "\n".join(f"  {_add_origin(problem, origins)}" for problem in problems)
    return f"{where}: {format_quantity(len(problems), 'problem')}\n{lines}"


def _add_origin(problem: str, origins: Mapping[str, str]) -> str:
    first, newline, rest = problem.partition("\n")
    steps = first.partition(": ")[0].split(".")
    prefixes = [".".join(steps[:length]) for length in range(len(steps), 0, -1)]
    origin = next((origins[prefix] for prefix in prefixes if prefix in origins), None)
    return f"{first} ({origin}){newline}{rest}" if origin else problem


def describe_problems(details: Iterable[Any], root: type[BaseModel], values: Mapping[str, object]) -> list[str]:
    """Return the problems of pydantic's errors, each with its path in the file, and of values that it would convert.

    Args:
        root: the model of the whole file.
        values: the content of the file.
    """
    found: dict[tuple[str, ...], list[Any]] = {}
    for detail in details:
        found.setdefault(tuple(_resolve(list(detail["loc"]), root)[0]), []).append(detail)
    problems: list[str] = []
    for path, same in found.items():
        expected = [_ARTICLES[detail["type"]] for detail in same if detail["type"] in _ARTICLES]
        is_wrong_type = len(expected) == len(same)
        if is_wrong_type and any(other[: len(path)] == path != other for other in found):
            continue  # only one of its types is refused, and the problems of its elements are listed
        if is_wrong_type and len(same) > 1:  # a key that has one of several types
            allowed = " or ".join(dict.fromkeys(expected))
            problems.append(f"{'.'.join(path)}: {_show(same[0]['input'])}: it must be {allowed}")
        else:
            problems += [_describe(detail, root) for detail in same]
    reported = {problem.partition(": ")[0] for problem in problems}
    wrong = _find_wrong_types(values, root)
    return problems + [line for line in wrong if line.partition(": ")[0] not in reported]


def _find_wrong_types(values: Mapping[str, object], model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield a problem for each value that pydantic would convert, such as `true` or "3" for an integer.

    Args:
        values: a table of the config; keys and types that are wrong otherwise are pydantic's to report.
        model: the table's model.
        path: the table's path, which ends with a period.
    """
    for name, field in model.model_fields.items():
        key = field.alias or name
        value, tables = values.get(key), tables_of(field.annotation)
        elements = list(enumerate(value)) if isinstance(value, list | tuple) else [("", value)]
        if tables:
            for index, element in elements:
                if isinstance(element, Mapping):
                    kind = load("sources").get(str(element.get("kind")), tables[0]) if len(tables) > 1 else tables[0]
                    yield from _find_wrong_types(
                        element, kind, ".".join(filter(None, (f"{path}{key}", str(index)))) + "."
                    )
            continue
        scalars = set(_scalars(field.annotation))
        if isinstance(value, Mapping):
            elements = list(value.items())
        for index, element in elements:
            if (expected := _expected_scalar(element, scalars)) is not None:
                where = ".".join(filter(None, (f"{path}{key}", str(index))))
                yield f"{where}: {_show(element)}: it must be {expected}"


def _expected_scalar(value: object, scalars: set[type]) -> str | None:
    """Return what a value must be instead, if pydantic would convert it to one of the types of its key."""
    if type(value) in scalars or not isinstance(value, bool | int | float | str) or not scalars & {bool, int, float}:
        return None
    if isinstance(value, str) and scalars & {str, Path}:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and float in scalars:
        return None
    names = {int: "an integer", float: "a number", bool: "true or false"}
    return " or ".join(name for kind, name in names.items() if kind in scalars)


def _scalars(annotation: object) -> Iterator[type]:
    """Yield the types of the single values in a type, also of an array's elements."""
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from _scalars(inner)


def _show(value: object) -> str:
    """Return a value as in TOML, cut if it is long; strings are in single quotes."""
    text = repr(value) if isinstance(value, str) else format_value(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}…"


def _describe(detail: Any, root: type[BaseModel]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    steps, parents, tables = _resolve(list(detail["loc"]), root)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tag, kinds = context.get("tag"), load("sources")
        problem = "is required" if tag is None else f"{tag!r} is not a kind of source"
        suggestion = did_you_mean(str(tag), kinds)
        remedy = f"; to install it: {absent[str(tag)]}" if str(tag) in (absent := missing("sources")) else ""
        return f"{'.'.join(steps)}.kind: {problem}; allowed: {', '.join(kinds)}{suggestion}{remedy}"
    path = ".".join(steps)
    if kind in _ARTICLES:
        value = detail["input"]
        example = f", such as {_show([value])}" if isinstance(value, str) and _ARTICLES[kind] == "an array" else ""
        return f"{path}: {_show(value)}: it must be {_ARTICLES[kind]}{example}"
    if kind == "extra_forbidden" and steps[0] == "source" and steps[-1] == "images":
        return f'{path}: {detail["input"]!r}: only archives of kind = "warc" hold images; remove the key'
    if kind == "extra_forbidden":
        return f"{path}: {_describe_unknown(steps, detail['input'], parents, root)}"
    if kind == "missing":
        return f"{path}: is required"
    expected = str(context.get("expected", ""))
    allowed = f"; allowed: {expected}" if expected else ""
    if kind == "literal_error":
        suggestion = did_you_mean(str(detail["input"]), expected.split("'")[1::2])
        return f"{path}: {_show(detail['input'])}{allowed}{suggestion}"
    message = (
        str(context["error"])
        if kind == "value_error"
        else re.sub(r"^\w+ should (.+?)( after .+)?$", r"it must \1", detail["msg"])
    )
    if "pattern" in context:
        message = _FORMS.get(steps[-1].removeprefix("train_").removeprefix("val_"), message)
    value = "" if tables and kind == "value_error" else f"{_show(detail['input'])}: "  # a whole table would hide it
    return f"{path}: {value}{message}{allowed}"


def _describe_unknown(
    steps: Sequence[str], value: object, tables: Sequence[type[BaseModel]], root: type[BaseModel]
) -> str:
    known = sorted({name for table in tables for name in _names(table)})
    absent = {
        name: command
        for table in tables
        for kind in getattr(table, "plugin_kinds", ())
        for name, command in missing(kind).items()
    }
    if steps[-1] in absent:
        return f"its plugin is not installed; to install it: {absent[steps[-1]]}"
    commands = sorted(set(absent.values()))
    installs = f"; plugins that are not installed may have it: {', '.join(commands)}" if commands else ""
    what = "unknown table" if isinstance(value, dict) else f"unknown key (value {_show(value)})"
    kinds = [f'"{kind}"' for kind, table in load("sources").items() if steps[-1] in _names(table)]
    if kinds and steps[0] == "source" and len(steps) == 3:
        return f"{what}; only kind = {' or '.join(kinds)} has it; allowed: {', '.join(known)}"
    closest = find_closest(steps[-1], known)
    suggestions = [".".join([*steps[:-1], closest])] if closest else []
    suggestions += [*dict.fromkeys(path for path in _all_paths(root) if path.rpartition(".")[2] == steps[-1])][:3]
    if suggestions:
        return f"{what}; did you mean {' or '.join(suggestions)}?{installs}"
    return f"{what}; allowed: {', '.join(known)}{installs}"


def _resolve(
    steps: Sequence[str | int], root: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]], list[type[BaseModel]]]:
    """Return the path of an error in the file, the models of the table that its last step is in, and its own models."""
    path: list[str] = []
    parents: list[type[BaseModel]] = [root]
    tables: list[type[BaseModel]] = [root]
    is_choice = False
    for number, step in enumerate(steps):
        if isinstance(step, int):
            path.append(str(step))
            continue
        if number == 2 and path[0] == "source" and step in load("sources"):  # which pydantic inserts
            tables = [load("sources")[str(step)]]
            continue
        if is_choice and isinstance(step, str):  # the name of a type, which pydantic inserts
            is_choice = False
            continue
        if step == "[key]":  # pydantic's own word for the name before it
            continue
        path.append(str(step))
        parents = tables or parents
        fields = [
            field for table in parents for name, field in table.model_fields.items() if step in (name, field.alias)
        ]
        tables = [model for field in fields for model in tables_of(field.annotation)]
        is_choice = any(_is_choice(field.annotation) for field in fields) and not tables
    return path, parents, tables


def _is_choice(annotation: object) -> bool:
    """Return whether a key may have one of several types."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    return get_origin(annotation) in (Union, UnionType) and len(members) > 1


def _names(table: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in table.model_fields.items()]


def _all_paths(root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in root.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path
        for model in tables_of(field.annotation):
            yield from _all_paths(model, f"{path}.")
