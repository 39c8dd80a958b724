"""Mutate bytes: the one edit of which both engines make several."""

MAX_REPEATED = 200_000
"""Maximum size of what one edit adds by repeating, in bytes."""
_BYTES = b"\0\x01\x7f\x80\xff\t\n\r \"'#%&*,/0:;<=>?@[\\]{|}~-"
_NUMBERS = (
    *(b"0", b"-1", b"1", b"65535", b"2147483647", b"4294967296", b"9223372036854775808", b"1e999", b"9" * 400),
    *(n.to_bytes(size, order) for size in (2, 4, 8) for n in (1, 1 << 8 * size - 1, (1 << 8 * size) - 1)
      for order in ("big", "little")),
)  # fmt: skip


def mutate(data, rng, others, tokens, max_bytes=1 << 18):
    """Return the data after one to six edits, each of which replaces a slice, often an empty one, by a piece.

    Args:
        others: inputs of which a piece may be a slice.
        tokens: words of the format, which a piece may be.
    """
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        end = at + rng.choice((0, 0, min(1, len(data) - at), _scale(rng, len(data) - at), len(data) - at))
        piece = rng.choice((_draw_piece(data, rng, others, tokens), b"", data[at:end]))
        times = 1 + (_scale(rng, MAX_REPEATED // len(piece)) if piece and rng.random() < 0.2 else 0)
        data = (data[:at] + piece * times + data[end:])[:max_bytes]
    return data


def _draw_piece(data, rng, others, tokens):
    """Return a byte, a changed bit, a number, one or two words of the format, or a slice of an input."""
    other = rng.choice([data, *others])
    start = rng.randrange(len(other) + 1)
    return rng.choice((
        bytes([rng.choice(_BYTES) if rng.random() < 0.5 else rng.randrange(256)]),
        bytes([other[start] ^ 1 << rng.randrange(8)]) if start < len(other) else b"",
        rng.choice(_NUMBERS),
        b"".join(rng.choices(tokens or [b" "], k=rng.randint(1, 2))),
        other[start : start + _scale(rng, len(other) - start)],
        other[start:],
    ))  # fmt: skip


def _scale(rng, most):
    """Return a number from 0 to `most`, of which small ones are as frequent as large ones."""
    return round((most + 1) ** rng.random()) - 1 if most > 0 else 0
