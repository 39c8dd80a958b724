"""The `[register]` table."""

from typing import Annotated

from pydantic import AfterValidator, Field, FiniteFloat

from dataops.config import StageConfig

CANDIDATE = "candidate"
"""Alias of a version that did not pass its gate."""


def _not_reserved(alias: str) -> str:
    if alias.lower() in ("latest", CANDIDATE) or (alias[:1] in "vV" and alias[1:].isdigit()):
        raise ValueError(f"{alias!r} is reserved (latest, {CANDIDATE}, v1, v2, ...)")
    return alias


class RegisterConfig(StageConfig):
    """The `[register]` table."""

    model_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,127}$")
    """Name of the registered model; where none is given, the run's."""
    floors: dict[str, FiniteFloat] = Field(default_factory=dict)
    """Lowest value of each `<task>/<metric>` with which a model passes, as `"twemoji-seen/top1" = 0.02`."""
    not_worse: tuple[str, ...] = ()
    """Tasks of the suite on which a paired test must not find the model worse than the one that has the alias."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Of that test: how improbable the champion's lead must be, were neither better, for the champion to stay."""
    alias: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"), AfterValidator(_not_reserved)] = "champion"
    """Alias that a version gets when it passes; one that does not is left as `candidate`."""
    description: str = Field("", max_length=2000)
    """Markdown that the version's description begins with."""
    license: str = Field("", max_length=200)
    """Licence of the weights, as its owner states it; for the model card."""
