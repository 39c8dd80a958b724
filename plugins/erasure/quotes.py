"""Replaces the texts in facts and records that may quote a pair, by the marks of their types (dataops.facts.Quoted)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from dataops import plugins
from dataops.facts import (
    QUOTES_PAIRS,
    CurateFacts,
    DownloadFacts,
    EvaluateFacts,
    ExtractFacts,
    Facts,
    FilterFacts,
    PackFacts,
    RegisterFacts,
    TrainFacts,
)

CORE_FACTS: Sequence[type[Facts]] = (
    *(ExtractFacts, FilterFacts, DownloadFacts, CurateFacts, PackFacts, TrainFacts, EvaluateFacts, RegisterFacts),
)


def replace_fact_quotes(stage: str, facts: dict[str, object], replace: Callable[[str], str]) -> dict[str, Any]:
    """Return the facts of a manifest of a stage with each text in them that may quote a pair replaced."""
    for kind in _list_facts(stage):
        if kind.table is None:
            facts = replace_quotes(kind, facts, replace)
        elif kind.table in facts:
            facts = {**facts, kind.table: replace_quotes(kind, facts[kind.table], replace)}
    return facts


def _list_facts(stage: str) -> Iterator[type[Facts]]:
    """Yield the models of the facts of a stage: its own, and those of installed steps and hooks."""
    objects = [*plugins.load("steps").values(), *plugins.load("fetch_hooks").values()]
    yield from (one for one in (*CORE_FACTS, *(made.facts for made in objects)) if one.stage == stage)


def replace_quotes(schema: object, value: object, replace: Callable[[str], str], *, is_quoted: bool = False) -> Any:
    """Return a JSON value with each text in it that may quote a pair replaced, by the marks of its schema.

    Args:
        schema: a type of a field of a pydantic model. Of a union all members apply.
        is_quoted: whether the schema is part of a type with the mark.
    """
    origin, inner = get_origin(schema), get_args(schema)
    if origin is Annotated:
        return replace_quotes(inner[0], value, replace, is_quoted=is_quoted or QUOTES_PAIRS in inner[1:])
    if origin in (Union, UnionType):
        for one in inner:
            value = replace_quotes(one, value, replace, is_quoted=is_quoted)
        return value
    if isinstance(value, str):
        return replace(value) if is_quoted and schema is str else value
    if isinstance(value, list) and origin in (list, tuple):
        kinds = inner if len(inner) == len(value) else inner[-1:] * len(value)
        return [replace_quotes(kind, one, replace, is_quoted=is_quoted) for kind, one in zip(kinds, value, strict=True)]
    if isinstance(value, dict) and origin is dict:
        named = [
            [replace_quotes(kind, one, replace, is_quoted=is_quoted) for kind, one in zip(inner, item, strict=True)]
            for item in value.items()
        ]
        return _join_renamed(named)
    if isinstance(value, dict) and isinstance(schema, type) and issubclass(schema, BaseModel):
        kinds = {name: field.rebuild_annotation() for name, field in schema.model_fields.items() if name in value}
        return value | {name: replace_quotes(kind, value[name], replace) for name, kind in kinds.items()}
    return value


def _join_renamed(items: Iterable[Sequence[Any]]) -> dict[str, Any]:
    joined = dict[str, Any]()
    for name, value in items:
        while name in joined:  # another replaced text of the same length
            name += "-"
        joined[name] = value
    return joined
