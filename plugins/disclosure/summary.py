"""The public summary of training content of a model or a dataset: all fields of the template, and what has changed."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from dataops.config import FrozenModel
from dataops.formatting import format_quantity
from plugins.disclosure.answers import Answer, Answers
from plugins.disclosure.crawling import answer_crawling
from plugins.disclosure.data_sources import answer_sources, list_data_sources
from plugins.disclosure.domains import Fetched, measure
from plugins.disclosure.general import answer_general
from plugins.disclosure.processing import answer_processing, answer_synthetic
from plugins.disclosure.provider_facts import ProviderFacts, apply_facts
from plugins.disclosure.subject import Subject, follow_takedowns
from plugins.disclosure.template import BY_NAME, FIELDS, LAW, TITLE

FORMAT = 2
"""Version of the JSON form."""


class Summary(FrozenModel):
    """A summary, as its JSON form has it."""

    format: int = FORMAT
    title: str = TITLE
    law: str = LAW
    kind: Literal["model", "dataset"]
    name: str
    datasets: tuple[str, ...]
    """`pack/KEY` of each dataset of the training."""
    pairs: int
    answers: dict[str, Answer]
    """By the name of the field, in the order of the template."""

    def list_open(self) -> list[str]:
        """Return the names of the required fields that are open.

        A field that depends on a question counts once the question is answered with yes.
        """
        return [field.name for field in FIELDS if not field.is_optional and self.is_open(field.name)]

    def is_open(self, name: str) -> bool:
        """Return whether a field is open, and no open question decides whether it applies."""
        questions = BY_NAME[name].only_if
        applies = not questions or any(self.answers[question].is_yes for question in questions)
        return applies and self.answers[name].state == "open"


def summarise(subject: Subject, facts: ProviderFacts) -> Summary:
    """Return the summary of a model or a dataset.

    Raises: ConfigError if a fact contradicts the manifests; CorruptPart, StorageError.
    """
    subject = follow_takedowns(subject)
    fetched = measure(subject.chains, subject.store) if subject.store is not None else Fetched()
    sources = list_data_sources(subject.chains, facts)
    answers: Answers = {
        **answer_general(subject, fetched),
        **answer_sources(sources, subject.pairs),
        **answer_crawling(subject.chains, sources, fetched, is_sme=facts.is_sme),
        **answer_synthetic(subject),
        **answer_processing(subject, sources),
    }
    return Summary(
        kind=subject.kind,
        name=subject.name,
        datasets=tuple(subject.datasets),
        pairs=subject.pairs,
        answers=apply_facts(answers, facts),
    )


def count_states(summary: Summary) -> str:
    """Return the number of fields of each state, as a sentence for people."""
    states = [found.state for found in summary.answers.values()]
    open_ = summary.list_open()
    optional = sum(BY_NAME[name].is_optional and found.state == "open" for name, found in summary.answers.items())
    counts = [
        f"{states.count('filled')} from the lineage",
        f"{states.count('stated')} stated by the provider",
        f"{len(open_)} open",
        f"{states.count('open') - len(open_) - optional} that depend on an open one",
        f"{optional} optional",
        f"{states.count('not_applicable')} not applicable",
    ]
    return f"{format_quantity(len(states), 'field')}: {', '.join(counts)}."


def as_json(summary: Summary) -> str:
    """Return the JSON form, with the section and label of each field for readers without the template."""
    return json.dumps(summary.model_dump(mode="json"), ensure_ascii=True, indent=1) + "\n"


def describe_open(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return section, label and who must fill it, for each of some fields."""
    fields = (BY_NAME[name] for name in names)
    return [{"field": one.name, "section": one.section, "label": one.label, "who": one.who} for one in fields]
