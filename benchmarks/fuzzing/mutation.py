"""Mutate bytes: the edits that both engines make."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

KINDS = ("flip", "byte", "insert", "overwrite", "delete", "repeat", "move", "splice", "truncate", "number", "flood")
RANGE = 1 << 16
"""`at` and `size` of an edit are fractions of this."""
MAX_REPEATED = 200_000
"""Maximum size of what one edit of the kind `repeat` adds, in bytes."""
_BYTES = b"\0\x01\x7f\x80\xff\t\n\r \"'#%&*,/0:;<=>?@[\\]{|}~-"
_NUMBERS = (
    *(b"0", b"-1", b"1", b"65535", b"2147483647", b"4294967296", b"9223372036854775808", b"1e999", b"9" * 400),
    *(n.to_bytes(size, order) for size in (2, 4, 8) for n in (1, 1 << 8 * size - 1, (1 << 8 * size) - 1)
      for order in ("big", "little")),
)  # fmt: skip


class Edit(NamedTuple):
    """One edit: its kind, its place and its size as fractions of RANGE, and a number that picks among alternatives."""

    kind: str
    at: int
    size: int
    pick: int


def apply_edits(
    data: bytes, edits: Iterable[Edit], others: Sequence[bytes], tokens: Sequence[bytes], max_bytes: int
) -> bytes:
    """Return the data after edits. `others` are the inputs that it may be spliced with."""
    for edit in edits:
        data = _apply(data, edit, others, tokens)[:max_bytes]
    return data


def draw_edits(rng: random.Random) -> list[Edit]:
    """Draw one to six edits."""
    return [
        Edit(rng.choice(KINDS), rng.randrange(RANGE), rng.randrange(RANGE), rng.randrange(1 << 32))
        for _ in range(rng.randint(1, 6))
    ]


def _apply(data: bytes, edit: Edit, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    kind, at, pick = edit.kind, edit.at * (len(data) + 1) // RANGE, edit.pick
    token = tokens[pick % len(tokens)] if tokens else bytes([pick % 256])
    end = at + _scale(edit.size, len(data) - at)
    if kind == "flip" and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << pick % 8]) + data[at + 1 :]
    if kind == "byte":
        return data[:at] + bytes([pick % 256 if pick & 256 else _BYTES[pick % len(_BYTES)]]) + data[at + 1 :]
    if kind == "insert":
        return data[:at] + token + data[at:]
    if kind == "overwrite":
        return data[:at] + token + data[at + len(token) :]
    if kind == "number":
        number = _NUMBERS[pick % len(_NUMBERS)]
        return data[:at] + number + data[at + (len(number) if pick & (1 << 20) else 1) :]
    if kind == "delete":
        return data[:at] + data[end:]
    if kind == "truncate":
        return data[:at]
    if kind == "repeat":
        repeated = data[at:end] or token
        return data[:at] + repeated * (1 + _scale(pick % RANGE, MAX_REPEATED // len(repeated))) + data[at:]
    if kind == "move":
        to = pick % (len(data) + 1)
        return data[:to] + data[at:end] + data[to:]
    if kind == "flood":
        other = tokens[pick // len(tokens) % len(tokens)] if tokens and pick & (1 << 24) else b""
        return data[:at] + (token + other) * (1 + _scale(edit.size, MAX_REPEATED // len(token + other))) + data[at:]
    if kind == "splice" and others:
        other = others[pick % len(others)]
        return data[:at] + other[edit.size * (len(other) + 1) // RANGE :]
    return data


def _scale(size: int, most: int) -> int:
    """Return a number from 0 to `most`, of which small ones are as frequent as large ones."""
    return round((most + 1) ** (size / RANGE)) - 1 if most > 0 else 0
