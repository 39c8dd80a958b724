"""Define `[curate.scores]`: which scores are computed, and by which models; and the rules over them, `[[curate.rules]]`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, model_validator

from dataops import plugins
from dataops.config import StageConfig
from dataops.schema import DropReason
from dataops.snapshot import Input
from plugins.scores.rules import ScoreRule
from tasks.curate.score import Score, Scorer
from tasks.curate.step import Step


class _ScoresConfig(StageConfig):
    """The `[curate.scores]` table: a score is computed if it has a table."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"device"})

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of CLIP models. auto: cuda if torch finds it, else cpu."""


class ScoresConfig(plugins.extend(_ScoresConfig, "scores")):
    """The `[curate.scores]` table: a score is computed if it has a table."""

    @property
    def wanted(self) -> dict[str, Score]:
        """The scores to compute, in the order of the columns."""
        return {name: score for name, score in plugins.load("scores").items() if getattr(self, name) is not None}

    def key_config(self) -> dict[str, Any]:
        """Return the names of the scores: the scorers' digests are inputs of the stage."""
        return dict.fromkeys(self.wanted, True)

    def problems(self) -> list[str]:
        """Return what is missing, with the score's name."""
        return [f"{name}{line}" for name, score in self.wanted.items() for line in score.problems(getattr(self, name))]

    def inputs(self) -> list[Input]:
        """Return the scorers, with their digests, as inputs of the stage. Raises: ConfigError."""
        return [Input(stage="scorer", key=scorer.name, digest=scorer.digest) for scorer in self.scorers()]

    def scorers(self) -> Iterator[Scorer]:
        """Yield the scorers. Raises: ConfigError if one is missing; ServiceError from MLflow."""
        for name, score in self.wanted.items():
            yield score.find(getattr(self, name), self.device)


SCORES = Step(
    "scores",
    ScoresConfig,
    "plugins.scores.step:add_scores",
    columns=tuple(column for score in plugins.load("scores").values() for column in score.columns),
    reasons={
        "SCORE_missing": DropReason("The row has no such score.", "`curate.rules`"),
        "SCORE_low": DropReason("The score is below `min` of a rule.", "`curate.rules`"),
        "SCORE_high": DropReason("The score is above `max` of a rule.", "`curate.rules`"),
        "SCORE_not_top": DropReason("The score is not in the `top_fraction` of a rule.", "`curate.rules`"),
        "SCORE_above_band": DropReason("The score is better than the `band` of a rule.", "`curate.rules`"),
        "SCORE_below_band": DropReason("The score is worse than the `band` of a rule.", "`curate.rules`"),
    },
    order=10,
    weight=32,
    inputs=ScoresConfig.inputs,
)


class _RulesConfig(BaseModel):
    rules: tuple[ScoreRule, ...] = ()
    """`[[curate.rules]]`: the scores that a row needs to be kept. Each rule sees all rows that nothing else has dropped."""

    @model_validator(mode="after")
    def _are_computed(self) -> Self:
        scores = getattr(self, SCORES.table, None)
        names = scores.wanted if scores else ()
        if unknown := dict.fromkeys(rule.score for rule in self.rules if rule.score not in names):
            tables = ", ".join(f"[curate.scores.{name}]" for name in unknown)
            known = ", ".join(plugins.load("scores"))
            raise ValueError(f"rules over scores that are not computed: {tables} missing; there are {known}")
        return self


@dataclass(frozen=True)
class ScoreRules:
    """The key `rules` of `[curate]`."""

    config: type[BaseModel] = _RulesConfig
    table: None = None


RULES = ScoreRules()
