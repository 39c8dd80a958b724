"""The `[register]` table of the run config."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from dataops.config import StageConfig

CANDIDATE = "candidate"
"""Alias of a version that the gate refused, or that without a gate is not better than chance or the champion."""

NO_GATE = "no gate: register.floors is empty; "
"""Beginning of the verdict on a version that no gate judged."""


NOT_EVALUATED = "not evaluated, since evaluate.suite is not set"
"""What is known of a version without an evaluation."""


def describe_gate(verdict: str) -> str:
    """Return a verdict in words: `gate passed`, `gate refused: ...` or `no gate: ...`."""
    return verdict if verdict.startswith(NO_GATE) else f"gate {verdict}"


def _check_alias(alias: str) -> str:
    if alias.lower() in ("latest", CANDIDATE) or (alias[:1] in "vV" and alias[1:].isdigit()):
        raise ValueError(f"{alias!r} is reserved (latest, {CANDIDATE}, v1, v2, ...)")
    return alias


class RegisterConfig(StageConfig):
    """The `[register]` table: the name of the model, and the gate."""

    model_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,127}$")
    """Name of the registered model; the default is the name of the run."""
    floors: dict[str, float] = Field(default_factory=dict)
    """Lowest value of each `<task>/<metric>` that passes the gate, for example `"digits/top1" = 0.2`. Without floors and
    without a comparison there is no gate: a version gets `alias` if it is above chance on a task, and not worse than the
    version that has the alias; otherwise it gets `candidate`. Both need `evaluate.suite`."""
    not_worse: tuple[str, ...] = ()
    """Tasks of the suite on which a paired test must not find the model worse than the version that has the alias."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Significance level of that test: with a p-value below it, the model is refused."""
    alias: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"), AfterValidator(_check_alias)] = "champion"
    """Alias that a version gets if it passes the gate; a refused one gets `candidate`."""
    description: str = Field("", max_length=2000)
    """Markdown at the start of the version's description."""
    license: str = Field("", max_length=200)
    """Licence of the weights as their owner states it, for the model card."""
    decided_by: str = Field("", max_length=200)
    """Experiment that decided the config (`pairmill experiment`), for the model card and the description."""

    def key_config(self) -> dict[str, Any]:
        """Return the fields of the key, with the experiment where there is one."""
        values = super().key_config()
        return values if self.decided_by else {name: one for name, one in values.items() if name != "decided_by"}
