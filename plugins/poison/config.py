"""`[curate.poison]`: the step of curate, and what its findings do."""

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from dataops.config import StageConfig
from dataops.facts import Facts, Tally
from dataops.formatting import did_you_mean, format_counts, format_quantity
from dataops.schema import DropReason
from tasks.curate.step import Step

QUARANTINED, FINDINGS, STATE = "quarantined", "poison-findings.parquet", "poison-state.parquet"
CHECKS = (
    "changed_bytes", "changed_server", "changed_owner", "revived_domain", "repeated_caption", "bound_word",
    "host_burst", "template_flood", "share_jump", "evaluation_copies", "opt_out_flip",
)  # fmt: skip
Level = Literal["off", "warn", "quarantine", "block"]


class PoisonConfig(StageConfig):
    """`[curate.poison]`: compare each night of a dataset that grows with the nights before it."""

    level: Level = "quarantine"
    """What a finding does: `warn` records it; `quarantine` drops its rows as `quarantined`, until they are released;
    `block` does so too, and no training starts on the version; `off` omits the check."""
    levels: dict[str, Level] = Field(default_factory=dict)
    """Level of single checks, for example `host_burst = "warn"`."""
    false_alarms: float = Field(default=2.0, gt=0, le=365)
    """Expected number of false findings in a year of 365 nights, of all checks with a statistic together."""
    learn_nights: PositiveInt = 14
    """Number of nights after which the checks with a statistic report anything. The second half of them teaches how far
    ordinary nights are from what the nights before had."""
    max_known: int = Field(default=65_536, ge=1_024)
    """Maximum number of domains, of words and of phrases that are known of earlier nights, each: the least recent ones are
    forgotten. A version keeps about 100 bytes for each."""
    digest_column: str = "sha256"
    """Column of a pair list (`source.extra_columns`) with the SHA-256 that its publisher saw."""
    released: tuple[str, ...] = ()
    """Pairs, by uid, that `pairmill quarantine release` lets in. All others are dropped."""

    @field_validator("levels")
    @classmethod
    def _has_known_checks(cls, levels: dict[str, Level]) -> dict[str, Level]:
        if unknown := [name for name in levels if name not in CHECKS]:
            suggestion = did_you_mean(unknown[0], CHECKS)
            raise ValueError(f"no such check: {', '.join(unknown)}; the checks are {', '.join(CHECKS)}{suggestion}")
        return levels

    def level_of(self, check: str) -> Level:
        """Return the level of a check."""
        return self.levels.get(check, self.level)


class PoisonFacts(Facts):
    """What the checks of a night have found."""

    table: ClassVar[str | None] = "poison"
    night: int = 0
    """Number of nights that the state has, with this one."""
    findings: Tally = Field(default_factory=dict)
    """Number of findings by check."""
    quarantined: int = 0
    blocking: Tally = Field(default_factory=dict)
    """Those of the level `block`, by check."""


def _describe(facts: Any) -> list[str]:
    if not facts.findings:
        return []
    what = f"Checks for poison found {format_counts(sorted(facts.findings.items()))}"
    return [f"{what}; {format_quantity(facts.quarantined, 'pair')} kept in quarantine."]


POISON = Step(
    "poison",
    PoisonConfig,
    "plugins.poison.step:examine_night",
    reasons={
        QUARANTINED: DropReason(
            "A check for poison has found something unusual about the pair's domain or caption.",
            "`pairmill quarantine` shows the evidence, and `pairmill quarantine release` lets pairs in",
        )
    },
    version=7,  # images of a frequent caption are compared with as many others
    order=800,  # after the scores; what is drawn at random later does not change what is usual
    weight=2,
    facts=PoisonFacts,
    describe=_describe,
    keeps=STATE,
)
