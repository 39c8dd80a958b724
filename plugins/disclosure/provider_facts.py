"""The provider's facts: a TOML file with a table `[summary]`, which fills fields that the lineage cannot fill."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from dataops.config import FrozenModel
from dataops.errors import ConfigError
from dataops.formatting import did_you_mean
from dataops.toml_problems import describe_problems
from dataops.toml_text import read_toml
from plugins.disclosure.answers import Answer, Answers
from plugins.disclosure.template import BY_NAME, FIELDS, TemplateField

SourceKind = Literal["public", "licensed", "private", "crawl", "user", "other"]
"""Section of a source: 2.1, 2.2.1, 2.2.2, 2.3, 2.4 and 2.6."""


class SourceFacts(FrozenModel):
    """`[summary.sources.NAME]`: what the provider states of a source of the config."""

    kind: SourceKind
    name: str = ""
    url: str = ""
    period: str = ""
    description: str = ""


class ProviderFacts(FrozenModel):
    """The table `[summary]`; its other keys are names of fields of the template."""

    is_sme: bool = False
    """Whether the provider is a small or medium-sized enterprise, for which the list of domains is shorter."""
    sources: dict[str, SourceFacts] = Field(default_factory=dict)
    fields: dict[str, Any] = Field(default_factory=dict)


def read_facts(path: Path | None) -> ProviderFacts:
    """Return the facts of a file, or none.

    Raises: ConfigError that lists everything that is wrong with it.
    """
    if path is None:
        return ProviderFacts()
    table = read_toml(path)[0].get("summary")
    if not isinstance(table, dict):
        raise ConfigError(f"{path} has no table [summary]; its keys are fields of the template, such as `provider`")
    return parse_facts(table, str(path))


def parse_facts(table: Mapping[str, Any], where: str) -> ProviderFacts:
    """Return the facts of a table. Raises: ConfigError."""
    own = {name: table[name] for name in ("is_sme", "sources") if name in table}
    fields = {name: value for name, value in table.items() if name not in own}
    problems = [problem for name, value in fields.items() if (problem := _find_problem(name, value))]
    facts, details = ProviderFacts(), []
    try:
        facts = ProviderFacts.model_validate(own)
    except ValidationError as error:
        details = error.errors()
    problems += [f"summary.{line}" for line in describe_problems(details, ProviderFacts, own)]
    if problems:
        raise ConfigError(f"wrong facts in {where}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return facts.model_copy(update={"fields": fields})


def _find_problem(name: str, value: Any) -> str:
    if name not in BY_NAME:
        return f"summary.{name}: the template has no such field{did_you_mean(name, [*BY_NAME, 'is_sme', 'sources'])}"
    if BY_NAME[name].is_question:
        return "" if isinstance(value, bool) else f"summary.{name} is {value!r}; it must be true or false"
    values = value if isinstance(value, list) else [value]
    if value and all(isinstance(one, str | datetime.date) and str(one).strip() for one in values):
        return ""
    return f"summary.{name} is {value!r}; it must be a text, a date, or a list of texts"


def apply_facts(answers: Answers, facts: ProviderFacts) -> Answers:
    """Return the answers with the provider's facts: they fill open fields, and stand beside what the manifests have.

    Raises: ConfigError if an answer contradicts the manifests.
    """
    found = {field.name: _apply(field, answers[field.name], facts.fields.get(field.name)) for field in FIELDS}
    return {field.name: _check_condition(field, found) for field in FIELDS}


def _apply(field: TemplateField, found: Answer, fact: Any) -> Answer:
    if fact is None:
        return found
    if field.is_question:
        if found.is_yes is not None and found.is_yes != fact:
            known = " ".join(found.text) or ("yes" if found.is_yes else "no")
            raise ConfigError(f"summary.{field.name} is {str(fact).lower()}, but the lineage has: {known}")
        return found if found.state == "filled" else Answer(state="stated", is_yes=fact)
    stated = tuple(str(one) for one in (fact if isinstance(fact, Sequence) and not isinstance(fact, str) else [fact]))
    state = "filled" if found.state == "filled" else "stated"
    return found.model_copy(update={"state": state, "stated": stated, "text": found.text if state == "filled" else ()})


def _check_condition(field: TemplateField, found: Answers) -> Answer:
    """Return the answer of a field, or that it does not apply since all its questions are answered with no."""
    if field.only_if and all(found[name].is_yes is False for name in field.only_if):
        if found[field.name].stated:
            raise ConfigError(f"summary.{field.name} is stated, but {' and '.join(field.only_if)} is no")
        return Answer(state="not_applicable")
    return found[field.name]
