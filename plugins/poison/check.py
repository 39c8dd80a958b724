"""The check that stops a training for findings of the level `block`."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, NonNegativeInt

from dataops.formatting import format_counts, format_quantity
from plugins.poison.config import PoisonFacts
from tasks.checks.check import Check, CheckResult, Figure, NotChecked, Versions


class MaxPoison(BaseModel):
    """The key of MAX_POISON."""

    max_poison: NonNegativeInt = 0
    """Maximum number of findings of the level `block` in `[curate.poison]`."""


class PoisonCheck(Check):
    """A check that blocks at its default level too: `[curate.poison]` states which findings do."""

    def compare(self, name: str, level: Any, bound: float, versions: Versions) -> CheckResult:
        return super().compare(name, "block", bound, versions)


def _count_blocking(versions: Versions) -> Figure:
    curate = versions.now["curate"]
    if not isinstance(curate.config.get("poison"), Mapping):
        raise NotChecked("curate.poison is not set")
    blocking = PoisonFacts.of(curate).blocking
    found = f": {format_counts(sorted(blocking.items()))}" if blocking else ""
    return Figure(sum(blocking.values()), f"{format_quantity(sum(blocking.values()), 'finding')} of poison{found}")


MAX_POISON = PoisonCheck(config=MaxPoison, needs=("curate",), figure=_count_blocking, order=90)
