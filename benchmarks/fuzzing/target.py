"""Define what a target of fuzzing is: a parser of foreign bytes, its deliberate errors and its limits."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Parser:
    """A parser, and the errors that it raises on purpose."""

    parse: Callable[[bytes], object]
    """Raises one of `errors`, or returns; an AssertionError is a find as well."""
    errors: tuple[type[Exception], ...] = ()


@dataclass(frozen=True)
class Limits:
    """What one input may cost: a constant, and an addend that is proportional to its size.

    They separate linear from explosive cost, so they are several times what slow machines need for harmless inputs.
    """

    seconds: float = 1.0
    """CPU time of any input."""
    seconds_per_mb: float = 10.0
    memory_mb: float = 64.0
    """Growth of the resident memory during any input, in 10^6 bytes."""
    memory_per_byte: float = 64.0


@dataclass(frozen=True)
class Target:
    """A parser of foreign bytes.

    Args:
        load: imports the parser and returns it; modules that it imports first are instrumented.
        seeds: returns valid inputs.
        tokens: words of the format, which mutations insert.
        max_bytes: maximum size of an input.
    """

    name: str
    load: Callable[[], Parser]
    seeds: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...] = ()
    limits: Limits = Limits()
    max_bytes: int = 1 << 18
