"""Check a dataset by the manifests of its stages, and against the last version of the same name.

A check is one object, which an entry point of the group `pairmill.checks` names: it compares one figure with the bound of
its name in `[checks]`. The core's own are in tasks.checks.bounds. A check whose facts are missing is `not checked`: an
earlier version of a stage may have written fewer facts, and the first dataset has no last version.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dataops import plugins
from dataops.config import FrozenModel
from dataops.escaping import escape_controls
from dataops.facts import PackFacts
from dataops.formatting import did_you_mean, format_quantity
from dataops.plugins import extend
from dataops.redaction import redact
from dataops.snapshot import Manifest

CheckState = Literal["passed", "failed", "not checked"]


class CheckResult(FrozenModel):
    """The result of one check."""

    check: str
    """Key of its bound in `[checks]`."""
    level: Literal["warn", "block"]
    state: CheckState
    figure: float | None = None
    """The value that was compared with the bound; None if there is none."""
    bound: float
    text: str
    """What the figure is of, or why there is none, with the bound."""

    @property
    def blocks(self) -> bool:
        """Whether the result forbids a training."""
        return self.state == "failed" and self.level == "block"

    @property
    def outcome(self) -> str:
        """The result in one word or two: `passed`, `warning`, `blocks` or `not checked`."""
        return self.state if self.state != "failed" else "blocks" if self.blocks else "warning"


class CheckReport(FrozenModel):
    """The results of all checks of one dataset."""

    dataset: str
    """Key of the dataset."""
    last: str | None
    """Key of the last version of the same name, with which it was compared."""
    last_run: str | None
    """The run that made that version or reused it."""
    results: list[CheckResult]

    @property
    def failed(self) -> list[CheckResult]:
        """The results of the checks that failed, those that block first."""
        return sorted((one for one in self.results if one.state == "failed"), key=lambda one: not one.blocks)

    @property
    def is_blocked(self) -> bool:
        """Whether a check forbids a training."""
        return any(one.blocks for one in self.results)

    @property
    def figures(self) -> dict[str, float]:
        """The figure of each check that has one."""
        return {one.check: one.figure for one in self.results if one.figure is not None}

    @property
    def verdict(self) -> str:
        """The result of all checks on one line, with the failed ones, for tags and tables."""
        passed = sum(one.state == "passed" for one in self.results)
        failed = ", ".join(f"{one.check} ({one.outcome})" for one in self.failed)
        return f"{format_quantity(passed, 'check')} passed" + (f"; failed: {failed}" if failed else "")

    def describe_blocks(self) -> str:
        """Return the error message of a blocked dataset: a line for each check that blocks."""
        lines = [f"  {one.check}: {one.text}" for one in self.failed if one.blocks]
        return "\n".join([f"the checks block the dataset pack/{self.dataset}, so nothing is trained on it:", *lines])

    def rows(self) -> list[dict[str, str]]:
        """Return the table of the results: failed ones first, then those that passed."""
        order = {"blocks": 0, "warning": 1, "passed": 2, "not checked": 3}
        results = sorted(self.results, key=lambda one: order[one.outcome])
        return [{"check": one.check, "result": one.outcome, "figure": one.text} for one in results]


Level = Literal["off", "warn", "block"]


class Figure(NamedTuple):
    """The value that is compared with a bound, and a sentence about it: the evidence."""

    value: float
    text: str


class NotChecked(Exception):
    """A figure cannot be computed; the text is the reason."""


@dataclass(frozen=True)
class Versions:
    """The manifests of a dataset and of the last version, by stage."""

    now: Mapping[str, Manifest]
    last: Mapping[str, Manifest]
    """Empty if there is no last version; stages may be missing that were deleted."""

    @property
    def pack(self) -> PackFacts:
        """Facts of the dataset."""
        return PackFacts.of(self.now["pack"])


@dataclass(frozen=True, kw_only=True)
class Check:
    """Define a check of a dataset."""

    config: type[BaseModel]
    """Its key in `[checks]`: the bound, which begins with min_ or max_ and is the name of the check."""
    needs: tuple[str, ...]
    """Stages whose manifests it reads; it is not checked where one of them was deleted."""
    figure: Callable[[Versions], Figure]
    """Returns the value and the evidence, or raises NotChecked."""
    write_bound: Callable[[float], str] = "{:,.0f}".format
    """Writes the bound for a message; by default as a count."""
    order: int = 100
    table: None = None

    def compare(self, name: str, level: Any, bound: float, versions: Versions) -> CheckResult:
        """Return the verdict on a dataset."""
        state: CheckState = "not checked"
        try:
            if missing := [stage for stage in self.needs if stage not in versions.now]:
                raise NotChecked(f"the manifest of {missing[0]} was deleted")
            figure = self.figure(versions)
        except NotChecked as reason:
            return CheckResult(check=name, level=level, state=state, bound=bound, text=str(reason))
        is_minimum = name.startswith("min_")
        holds = figure.value >= bound if is_minimum else figure.value <= bound
        text = escape_controls(redact(figure.text))  # it may name a host
        text = f"{text}; the {'minimum' if is_minimum else 'maximum'} is {self.write_bound(bound)}"
        state = "passed" if holds else "failed"
        return CheckResult(check=name, level=level, state=state, figure=figure.value, bound=bound, text=text)


class CheckLevels(FrozenModel):
    """Define what failed checks do."""

    model_config = ConfigDict(validate_default=True)

    level: Level = "warn"
    """What a failed check does: `warn` logs it, `block` ends the run with exit code 3 before `train`, `off` omits the
    check."""
    levels: dict[str, Level] = Field(default_factory=dict)
    """Level of single checks, by the key of their bound, for example `max_host_share = "block"`."""

    @field_validator("levels")
    @classmethod
    def _has_known_checks(cls, levels: dict[str, Level]) -> dict[str, Level]:
        checks = plugins.load("checks")
        if unknown := [name for name in levels if name not in checks]:
            suggestion = did_you_mean(unknown[0], checks)
            raise ValueError(f"no such check: {', '.join(unknown)}; the checks are {', '.join(checks)}{suggestion}")
        return levels


def check_dataset(
    config: CheckLevels,
    now: Mapping[str, Manifest],
    last: Mapping[str, Manifest] | None = None,
    last_run: str | None = None,
) -> CheckReport:
    """Check a dataset.

    Args:
        config: `[checks]`, which has the bounds of all checks.
        now: the manifests of its stages, by stage; that of `pack` must be there.
        last: those of the last version of the same name, as far as they are still in the store.
        last_run: the run that made that version.
    """
    versions = Versions(now, last or {})
    levels = {name: config.levels.get(name, config.level) for name in plugins.load("checks")}
    results = [
        check.compare(name, levels[name], float(getattr(config, name)), versions)
        for name, check in plugins.load("checks").items()
        if levels[name] != "off"
    ]
    key = last["pack"].key if last else None
    return CheckReport(dataset=now["pack"].key, last=key, last_run=last_run, results=results)


class ChecksConfig(extend(CheckLevels, "checks")):
    """The `[checks]` table: what a dataset must be like before anything is trained on it (docs/dataset/checks.md)."""
