"""The `[checks]` table of the run config. Nothing in it enters the key of a snapshot."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dataops.text.suggestions import did_you_mean

Level = Literal["off", "warn", "block"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ChecksConfig(BaseModel):
    """The `[checks]` table: what a dataset must be like before anything is trained on it (docs/checks.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    level: Level = "warn"
    """What a failed check does: `warn` logs it, `block` ends the run with exit code 3 before `train`, `off` omits the
    check."""
    levels: dict[str, Level] = Field(default_factory=dict)
    """Level of single checks, by the key of their bound, for example `max_host_share = "block"`."""

    min_rows: int = Field(default=1, ge=0)
    """Minimum number of pairs of the dataset."""
    max_unreadable_files: Share = 0.1
    """Maximum share of the source files that could not be read, where `source.max_failed_files` allows any."""
    min_source_rows: int = Field(default=1, ge=0)
    """Minimum number of pairs of each source that has a name."""
    min_kept_extract: Share = 0.01
    """Minimum share of its rows that `extract` keeps."""
    min_kept_filter: Share = 0.001
    """Minimum share of its rows that `filter` keeps."""
    min_kept_download: Share = 0.3
    """Minimum share of its rows that `download` keeps: the success of the download."""
    min_kept_curate: Share = 0.1
    """Minimum share of its rows that `curate` keeps."""
    min_kept_pack: Share = 0.5
    """Minimum share of its rows that `pack` keeps; it drops the pairs of takedowns."""
    max_duplicates: Share = 0.9
    """Maximum share of its rows that `filter` or `curate` drops as duplicates."""
    min_language_rows: int = Field(default=1, ge=0)
    """Minimum number of pairs of each language of `filter.languages`; if that is empty, of each language that had at
    least 1% of the last version."""
    max_host_share: Share = 0.8
    """Maximum share of the pairs that one host of images has. A dataset of a single host is not checked."""
    min_caption_length: int = Field(default=0, ge=0, le=300)
    """Minimum median of the length of the captions, in characters, in steps of 10."""
    max_caption_length: int = Field(default=300, ge=0, le=300)
    """Maximum of the same median. 300 stands for any longer one as well."""
    min_original_side: int = Field(default=0, ge=0, le=2048)
    """Minimum median of the shorter side of the original images, in pixels, in steps of 64."""

    min_rows_ratio: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    """Minimum number of pairs, relative to the last version."""
    max_rows_ratio: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Maximum number of pairs, relative to the last version."""
    max_kept_change: Share = 0.2
    """Maximum change, since the last version, of the share of its rows that a stage keeps: 0.2 allows from 60% to 40%."""
    max_drift_languages: Share = 0.2
    """Maximum change, since the last version, of the share of any one language."""
    max_drift_hosts: Share = 0.2
    """Maximum change, since the last version, of the share of any one host of images."""
    max_drift_licenses: Share = 0.2
    """Maximum change, since the last version, of the share of any one licence."""
    max_drift_caption_sources: Share = 0.2
    """Maximum change, since the last version, of the share of any one source of captions."""
    max_drift_lengths: Share = 0.2
    """Maximum Kolmogorov-Smirnov distance to the last version's lengths of captions."""
    max_drift_original_sides: Share = 0.2
    """Maximum Kolmogorov-Smirnov distance to the last version's shorter sides of the original images."""
    max_drift_scores: Share = 0.2
    """Maximum Kolmogorov-Smirnov distance to the last version of any score that both versions have."""

    @field_validator("levels")
    @classmethod
    def _has_known_checks(cls, levels: dict[str, Level]) -> dict[str, Level]:
        checks = [name for name in cls.model_fields if name not in ("level", "levels")]
        if unknown := [name for name in levels if name not in checks]:
            suggestion = did_you_mean(unknown[0], checks)
            raise ValueError(f"no such check: {', '.join(unknown)}; the checks are {', '.join(checks)}{suggestion}")
        return levels

    def level_of(self, check: str) -> Level:
        """Return the level of a check."""
        return self.levels.get(check, self.level)
