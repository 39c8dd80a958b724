"""The result of one check of `pairmill doctor`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """What was looked at and how it stands."""

    name: str
    ok: bool
    severity: Literal["error", "warning"]
    """How bad it is where it is not ok: an error keeps pairmill from working, a warning may."""
    detail: str
    remedy: str = ""
    """What to do, as a command where one does it; set on every check that is not ok."""
