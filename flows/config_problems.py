"""Words the problems of a config: each with its path, the value, what is allowed, a suggestion, and its line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from dataops.text.suggestions import did_you_mean, find_closest
from tasks.extract.config import SOURCE_KINDS


def format_problems(where: str, problems: Sequence[str], origins: Mapping[str, str]) -> str:
    """Return the message that lists problems, each a line that begins with its path.

    Args:
        origins: where a key was set, such as `line 12`, by path.
    """
    lines = "\n".join(f"  {_add_origin(problem, origins)}" for problem in problems)
    return f"{where}: {len(problems)} problem{'s' if len(problems) != 1 else ''} in the config\n{lines}"


def _add_origin(problem: str, origins: Mapping[str, str]) -> str:
    first, newline, rest = problem.partition("\n")
    steps = first.partition(": ")[0].split(".")
    prefixes = [".".join(steps[:length]) for length in range(len(steps), 0, -1)]
    origin = next((origins[prefix] for prefix in prefixes if prefix in origins), None)
    return f"{first} ({origin}){newline}{rest}" if origin else problem


def describe_problem(detail: Any, root: type[BaseModel]) -> str:
    """Return the problem of one of pydantic's errors, with its path in the config.

    Args:
        root: the model of the whole config.
    """
    kind, context = detail["type"], detail.get("ctx", {})
    steps, parents, tables = _resolve(list(detail["loc"]), root)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tag = context.get("tag")
        problem = "is required" if tag is None else f"{tag!r} is not a kind of source"
        suggestion = did_you_mean(str(tag), SOURCE_KINDS) if tag is not None else ""
        return f"{steps[0]}.kind: {problem}; allowed: {', '.join(SOURCE_KINDS)}{suggestion}"
    path = ".".join(steps)
    if kind == "extra_forbidden" and path == "source.images":
        return f'{path}: {detail["input"]!r}: only archives of kind = "warc" hold images; remove the key'
    if kind == "extra_forbidden":
        return f"{path}: {_describe_unknown(steps, detail['input'], parents, root)}"
    if kind == "missing":
        return f"{path}: is required"
    expected = str(context.get("expected", ""))
    allowed = f"; allowed: {expected}" if expected else ""
    if kind == "literal_error":
        suggestion = did_you_mean(str(detail["input"]), expected.replace(" or ", ", ").replace("'", "").split(", "))
        return f"{path}: {detail['input']!r}{allowed}{suggestion}"
    message = str(context["error"]) if kind == "value_error" else detail["msg"]
    value = "" if tables and kind == "value_error" else f"{detail['input']!r}: "  # a whole table would hide the message
    return f"{path}: {value}{message}{allowed}"


def _describe_unknown(
    steps: Sequence[str], value: Any, tables: Sequence[type[BaseModel]], root: type[BaseModel]
) -> str:
    known = sorted({name for table in tables for name in _names(table)})
    what = "unknown table" if isinstance(value, dict) else f"unknown key (value {value!r})"
    kinds = [f'"{kind}"' for kind, table in SOURCE_KINDS.items() if steps[-1] in _names(table)]
    if kinds and steps[:-1] == ["source"]:
        return f"{what}; only kind = {' or '.join(kinds)} has it; allowed: {', '.join(known)}"
    closest = find_closest(steps[-1], known)
    if closest is not None:
        suggestions = [".".join([*steps[:-1], closest])]
    else:
        suggestions = [path for path in _all_paths(root) if path.rpartition(".")[2] == steps[-1]][:3]
    suggestion = f"; did you mean {' or '.join(suggestions)}?" if suggestions else ""
    return f"{what}; allowed: {', '.join(known)}{suggestion}"


def _resolve(
    steps: Sequence[str | int], root: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]], list[type[BaseModel]]]:
    """Return the path of an error in the config, the models of the table that its last step is in, and its own models."""
    path: list[str] = []
    parents: list[type[BaseModel]] = [root]
    tables: list[type[BaseModel]] = [root]
    for step in steps:
        if path == ["source"] and step in SOURCE_KINDS:  # which pydantic inserts
            tables = [SOURCE_KINDS[str(step)]]
            continue
        path.append(str(step))
        parents = tables or parents
        fields = [
            field for table in parents for name, field in table.model_fields.items() if step in (name, field.alias)
        ]
        tables = [model for field in fields for model in _models(field.annotation)]
    return path, parents, tables


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type: in an optional one, a union, a list or a table of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _names(table: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in table.model_fields.items()]


def _all_paths(root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in root.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path
        for model in dict.fromkeys(_models(field.annotation)):
            yield from _all_paths(model, f"{path}.")
