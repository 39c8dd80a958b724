"""The public summary of training content of a model or a dataset: all fields of the template, and what has changed."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.errors import ConfigError
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
_STATES = {"open": "open", "not_applicable": "not applicable", "filled": "empty", "stated": "empty"}
_UNCOMPARED = frozenset({"version", "last_update"})


class Change(BaseModel):
    """A field whose answer differs from that of an earlier summary."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    before: tuple[str, ...]
    """Lines of the earlier answer that are not in the present one."""
    now: tuple[str, ...]


class Summary(BaseModel):
    """A summary, as its JSON form has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    since: str = ""
    """The summary, model or dataset that it is compared with; "" for none."""
    changes: tuple[Change, ...] = ()

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
        datasets=tuple([f"pack/{pack.key}" for pack in subject.packs] + [f"pack/{key}" for key in subject.missing]),
        pairs=subject.pairs,
        answers=apply_facts(answers, facts),
    )


def read_summary(text: bytes, where: str) -> Summary:
    """Return a summary from its JSON form. Raises: ConfigError if it is none."""
    try:
        found = Summary.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(
            f"{where} is not a summary in JSON, as `pairmill summary --out FILE.json` writes it"
        ) from error
    if found.format != FORMAT or list(found.answers) != list(BY_NAME):
        raise ConfigError(f"{where} was written by another version of pairmill, whose fields differ; make it again")
    return found


def compare(earlier: Summary, now: Summary) -> Summary:
    """Return the present summary with what has changed since an earlier one."""
    made = " ".join((*earlier.answers["last_update"].text, *earlier.answers["last_update"].stated))
    changes = [change for field in FIELDS if (change := _compare(field.name, earlier, now)) is not None]
    return now.model_copy(update={"since": f"{earlier.name} ({made})", "changes": tuple(changes)})


def _compare(name: str, earlier: Summary, now: Summary) -> Change | None:
    if name in _UNCOMPARED:
        return None
    before, after = list(list_lines(earlier.answers[name])), list(list_lines(now.answers[name]))
    if not before and not after:
        return None
    before, after = before or [_STATES[earlier.answers[name].state]], after or [_STATES[now.answers[name].state]]
    dropped, new = [line for line in before if line not in after], [line for line in after if line not in before]
    return Change(field=name, before=tuple(dropped), now=tuple(new)) if dropped or new else None


def list_lines(found: Answer) -> Iterator[str]:
    """Yield an answer as lines: the answer to a question, the sentences, and the rows of its table; none if it is open."""
    if found.state in ("open", "not_applicable"):
        return
    if found.is_yes is not None:
        yield "Yes" if found.is_yes else "No"
    yield from found.text
    yield from found.stated
    yield from (", ".join(row) for row in found.rows)


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
