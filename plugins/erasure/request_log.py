"""The register of takedown requests: who asked, when, until when an answer is due, and what was done by when.

    takedowns/<digest>.log.json

Who asked is personal data. It is in this object of the store only: never in a manifest, a report, MLflow, Prefect or a log.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from pydantic import ValidationError

from dataops.config import FrozenModel
from dataops.errors import ConfigError, CorruptPart
from dataops.store import Store
from dataops.trace.requests import FOLDER

logger = logging.getLogger(__name__)

SUFFIX = ".log.json"
DUE_DAYS = 30
"""Days after which an answer is due by default. Source: Regulation (EU) 2016/679, Article 12(3): one month."""
State = Literal["open", "overdue", "done"]


class Letter(FrozenModel):
    """A request as somebody sent it. Several may name the same targets."""

    requested_by: str
    received: date
    due: date
    reason: str
    recorded_at: datetime
    completed_at: datetime | None = None
    """When a call ended that left nothing of the pairs, raw images included."""

    def state(self, today: date) -> State:
        """Return whether it is done, and else whether it is overdue."""
        return "done" if self.completed_at else "overdue" if self.due < today else "open"


class Call(FrozenModel, extra="ignore"):
    """One `pairmill takedown`. Earlier versions also wrote the numbers of its report."""

    began_at: datetime
    ended_at: datetime | None = None
    """None if it was killed."""
    deletes_raw: bool
    is_complete: bool = False


class RequestLog(FrozenModel):
    """takedowns/<digest>.log.json."""

    request: str
    targets: int
    letters: tuple[Letter, ...] = ()
    calls: tuple[Call, ...] = ()

    @property
    def name(self) -> str:
        """Name in the store."""
        return f"{FOLDER}/{self.request}{SUFFIX}"

    def save(self, store: Store) -> None:
        """Write it."""
        store.put(self.name, self.model_dump_json(indent=2).encode())

    def begin(self, letter: Letter, *, is_named: bool, deletes_raw: bool) -> "RequestLog":
        """Return the log with a call that begins, and with the letter if it is new.

        Args:
            is_named: the command names who asked, or when; without it a known request gets no further letter.
        """
        known = {(one.requested_by, one.received) for one in self.letters}
        is_new = not self.letters or (is_named and (letter.requested_by, letter.received) not in known)
        call = Call(began_at=_now(), deletes_raw=deletes_raw)
        letters = (*self.letters, letter) if is_new else self.letters
        return self.model_copy(update={"letters": letters, "calls": (*self.calls, call)})

    def end(self, *, is_complete: bool) -> "RequestLog":
        """Return the log after the last call; if it left nothing, its letters are done."""
        now = _now()
        last = self.calls[-1].model_copy(update={"ended_at": now, "is_complete": is_complete})
        done = is_complete and last.deletes_raw
        letters = [
            one.model_copy(update={"completed_at": one.completed_at or now}) if done else one for one in self.letters
        ]
        return self.model_copy(update={"letters": tuple(letters), "calls": (*self.calls[:-1], last)})

    def rows(self, store: str, today: date) -> Iterator[dict[str, Any]]:
        """Yield a row for each letter, as `pairmill takedown list` lists them."""
        for letter in self.letters:
            done = letter.completed_at
            yield {
                "request": self.request,
                "state": letter.state(today),
                "requested_by": letter.requested_by,
                "received": letter.received.isoformat(),
                "due": letter.due.isoformat(),
                "completed": done.isoformat(timespec="seconds") if done else None,
                "days_to_completion": (done.date() - letter.received).days if done else None,
                "targets": self.targets,
                "reason": letter.reason,
                "calls": len(self.calls),
                "store": store,
            }


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def make_letter(requested_by: str, received: str, due: str, reason: str) -> Letter:
    """Return a letter, given its dates as YYYY-MM-DD or "". Raises: ConfigError if they are not valid."""
    today = datetime.now(UTC).date()
    on = _parse_date("--received", received) or today
    until = _parse_date("--due", due) or on + timedelta(days=DUE_DAYS)
    if on > today:
        raise ConfigError(f"--received {received} is in the future")
    if until < on:
        raise ConfigError(f"--due {until} is before the day on which the request was received, {on}")
    return Letter(requested_by=requested_by.strip(), received=on, due=until, reason=reason, recorded_at=_now())


def _parse_date(option: str, value: str) -> date | None:
    try:
        return date.fromisoformat(value) if value else None
    except ValueError as error:
        raise ConfigError(f"{option} {value!r} is no date; write YYYY-MM-DD") from error


def load_log(store: Store, request: str, targets: int) -> RequestLog:
    """Return the log of a request; a new one if there is none. Raises: CorruptPart if it is damaged."""
    new = RequestLog(request=request, targets=targets)
    return new if (data := store.find(new.name)) is None else _parse(store, new.name, data)


def list_logs(store: Store) -> list[RequestLog]:
    """Return the logs of all requests of a store. Raises: CorruptPart if one is damaged."""
    return [_parse(store, name, store.read(name)) for name in store.names(FOLDER) if name.endswith(SUFFIX)]


def _parse(store: Store, name: str, data: bytes) -> RequestLog:
    try:
        return RequestLog.model_validate_json(data)
    except ValidationError as error:
        raise CorruptPart(f"{store.uri}/{name} is no log of a request; correct it, or delete it") from error
