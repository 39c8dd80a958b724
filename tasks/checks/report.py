"""The report on the checks of a dataset, which is part of the run record."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from dataops.escaping import escape_markdown
from dataops.formatting import format_quantity

CheckState = Literal["passed", "failed", "not checked"]


class CheckResult(BaseModel):
    """The result of one check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class CheckReport(BaseModel):
    """The results of all checks of one dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    def markdown_rows(self) -> list[dict[str, str]]:
        """Return the same for a page that may read Markdown. Only the figure can have text from the web."""
        return [row | {"figure": escape_markdown(row["figure"])} for row in self.rows()]
