"""The answer to a field of the template: from the manifests, from the provider, or open."""

from collections.abc import Sequence
from typing import Literal

from dataops.config import FrozenModel

State = Literal["filled", "stated", "open", "not_applicable"]
"""`filled` is from the manifests, `stated` from the provider's file of facts."""


class Answer(FrozenModel):
    """The answer to one field."""

    state: State
    is_yes: bool | None = None
    """Answer to a question; None for a field that is no question, or whose answer is open."""
    text: tuple[str, ...] = ()
    """Sentences. Of an open field they state what is known, or how to fill it."""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    stated: tuple[str, ...] = ()
    """Sentences of the provider."""


Answers = dict[str, Answer]


def fill(*text: str, columns: Sequence[str] = (), rows: Sequence[Sequence[str]] = ()) -> Answer:
    """Return an answer from the manifests."""
    return Answer(state="filled", text=text, columns=tuple(columns), rows=tuple(tuple(row) for row in rows))


def answer(is_yes: bool, *text: str) -> Answer:
    """Return the answer of the manifests to a question."""
    return Answer(state="filled", is_yes=is_yes, text=text)


def leave_open(*text: str) -> Answer:
    """Return an open answer."""
    return Answer(state="open", text=text)
