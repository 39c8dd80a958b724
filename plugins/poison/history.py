"""What earlier nights of a dataset were like, in a bounded number of rows, and how improbable a score of tonight is.

The state is one table: `kind`, `id` (48 bits of a hash: no text) and `values`. Each kind has a place for each value:

    domain    FIRST, LAST and ROWS (below), then those of the class Domain
    owner     FIRST, LAST, the nights in a row with this owner, and at the end the class Server
    word      FIRST, LAST, ROWS of a word in captions
    phrase    the same of three words in a row, without the rows of the domain that has most of them
    share     FIRST, LAST, the sum of a category's shares of the domains of a night; sum and number of squared deviations
    pool      sums over all nights, such as listed digests and those that differ
    tail      the largest score of each of the last TAIL_NIGHTS nights
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import pyarrow as pa
import xxhash

FIRST, LAST, ROWS = 0, 1, 2
"""Places of the first and the last night, and of the number of rows, of which each night counts less than the next."""
BOUNDED = ("domain", "owner", "word", "phrase", "share")
HALF_LIFE = 30
"""Nights after which rows count half."""
DECAY = 0.5 ** (1 / HALF_LIFE)
TAIL_NIGHTS, TAIL_SHARE, TAIL_LEAST = 365, 0.25, 10
"""Nights whose largest scores are known; the share of them, or at least the number, that are the tail."""
WORDS = 48
"""Number of words by which a domain is known."""
SCHEMA = pa.schema([("kind", pa.string()), ("id", pa.uint64()), ("values", pa.list_(pa.float64()))])


def hash_text(text: str) -> int:
    """Return 48 bits of a hash, which a double holds exactly."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) & ((1 << 48) - 1)


@dataclass
class Domain:
    """What is known of a domain."""

    first: float
    last: float
    """Last night with an image."""
    rows: float = 0
    nights: float = 0
    repeat: float = 0
    """Largest number of its unlike images with one caption in a night."""
    dark_since: float = 0
    """First night since its last image on which none of its hosts resolved; 0: none."""
    dark_nights: float = 0
    """Number of such nights."""
    server: float = 0
    template: float = 0
    stable: float = 0
    """Number of nights with this server and template in a row."""
    opted: float = 0
    """Images that it opted out."""
    opted_nights: float = 0
    open: float = 0
    """Images that it did not."""
    peak: float = 0
    """Most captions of a night; one of HALF_LIFE nights before the last counts half."""
    foreign: float = 0
    """Captions with none of the words by which it was known."""
    compared: float = 0
    """Captions that were compared with these words."""
    found: float = 0
    """For what it is held until it is released; 0: it is not."""
    words: tuple[float, ...] = ()

    NUMBERS: ClassVar[int] = 17

    def values(self) -> list[float]:
        """Return the values of its row."""
        return [*list(vars(self).values())[: self.NUMBERS], *self.words]

    @classmethod
    def of(cls, values: list[float]) -> Self:
        """Return the domain of a row."""
        return cls(*values[: cls.NUMBERS], words=tuple(values[cls.NUMBERS :]))


@dataclass
class History:
    """The state after some nights."""

    night: int = 0
    kinds: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def of(self, kind: str) -> dict[int, list[float]]:
        """Return the rows of a kind by id."""
        return self.kinds.setdefault(kind, {})

    def domain(self, name: str) -> Domain | None:
        """Return what is known of a domain; None: nothing."""
        values = self.of("domain").get(hash_text(name))
        return None if values is None else Domain.of(values)

    def expect(self, kind: str, key: str, night: int) -> float | None:
        """Return the rows that a night is expected to have of something; None if it is new."""
        values = self.of(kind).get(hash_text(key))
        if values is None or values[FIRST] >= night:
            return None
        weight = (1 - DECAY ** (night - values[FIRST])) / (1 - DECAY)
        return values[ROWS] * DECAY ** (night - values[LAST]) / weight

    def count(self, kind: str, key: str, rows: float, *more: float) -> None:
        """Add the rows of this night, and further sums."""
        values = self.of(kind).setdefault(hash_text(key), [self.night, self.night, 0.0, *(0.0 for _ in more)])
        values[ROWS] = values[ROWS] * DECAY ** (self.night - values[LAST]) + rows
        values[LAST] = self.night
        for place, one in enumerate(more, ROWS + 1):
            values[place] += one

    def pool(self, name: str, *more: float) -> list[float]:
        """Add to sums over all nights, and return them."""
        values = self.of("pool").setdefault(hash_text(name), [0.0 for _ in more])
        for place, one in enumerate(more):
            values[place] += one
        return values

    def learn_largest(self, tail: str, score: float) -> None:
        """Add the largest score of a night that is no finding."""
        self.of("tail")[hash_text(tail)] = [*self.of("tail").get(hash_text(tail), []), score][-TAIL_NIGHTS:]

    def raise_largest(self, tail: str, score: float) -> None:
        """Let the largest score of the last night be at least this."""
        known = self.of("tail").get(hash_text(tail), [])
        known[-1:] = [max(one, score) for one in known[-1:]]

    def probability(self, tail: str, score: float) -> float:
        """Return the probability that the largest score of a night without a fault is at least this; 1 if none is known.

        The largest quarter of the scores of the nights before is the tail, and what it has beyond the next one is
        exponential. This is the predictive distribution, which knows the mean from these excesses alone; their mean is
        taken as no smaller than the unit of a score, a log probability or ratio (so this holds for a Pareto tail too).

        Source: Pickands 1975, "Statistical inference using extreme order statistics" (peaks over a threshold, shape 0);
        Aitchison and Dunsmore 1975, "Statistical prediction analysis" (the predictive distribution, a Pareto).
        """
        known = sorted(self.of("tail").get(hash_text(tail), []), reverse=True)
        number = min(max(int(TAIL_SHARE * len(known)), TAIL_LEAST), len(known) - 1)
        if number < 1 or score <= known[number]:
            return 1.0 if not known else sum(one >= score for one in known) / len(known)
        excess = max(sum(known[:number]) - number * known[number], number)
        return (number + 1) / (len(known) + 1) * (1 + (score - known[number]) / excess) ** -number

    def encode(self, limit: int) -> pa.Table:
        """Return the state as a table (SCHEMA), with at most `limit` rows of each kind: the most recent ones."""
        night: list[tuple[str, int, list[float]]] = [("night", self.night, [])]
        for kind, rows in self.kinds.items():
            kept = sorted(rows)
            if kind in BOUNDED and len(kept) > limit:
                kept = sorted(kept, key=lambda one: (-rows[one][LAST], -rows[one][ROWS], one))[:limit]
            night += [(kind, one, rows[one]) for one in kept]
        kinds, ids, values = zip(*sorted(night), strict=True)
        return pa.table([kinds, pa.array(ids, pa.uint64()), values], schema=SCHEMA)

    @classmethod
    def decode(cls, table: pa.Table) -> Self:
        """Return the state of a table that `encode` has made."""
        found = cls()
        for kind, one, values in zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True):
            if kind == "night":
                found.night = one
            else:
                found.of(kind)[one] = values
        return found
