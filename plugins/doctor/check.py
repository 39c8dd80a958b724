"""The result of one check of `pairmill doctor`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool
    severity: Literal["error", "warning"]
    """Severity if the check fails: with an error pairmill does not work, with a warning it may not."""
    detail: str
    remedy: str = ""
    """What to do, if possible as a command; set on every failed check."""
