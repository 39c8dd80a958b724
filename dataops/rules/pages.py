"""Rules on what the page of an image declares."""

import re
from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field, PositiveInt, field_validator

from dataops.config import StageConfig
from dataops.filters import Rule
from dataops.reasons import Reason
from dataops.rights.signals import list_defaults, list_names

if TYPE_CHECKING:
    PageSignal = str
else:
    PageSignal = Literal[list_names("filter")]
"""Name of a signal that pages declare."""
_SIDES = ("declared_width", "declared_height")
_LEAST, _MOST = pl.min_horizontal(_SIDES), pl.max_horizontal(_SIDES)


class OptOut(StageConfig):
    """The key of OPT_OUT."""

    opt_out: list[PageSignal] = Field(default=list(list_defaults("filter")))
    """Rows of pages that declare one of these opt-outs are dropped as opt_out."""


class AllowLicenses(StageConfig):
    """The key of LICENSE."""

    allow_licenses: list[str] = Field(default=[])
    """If not empty, rows without a declared licence, or whose licence does not start with one of these URLs (without a
    scheme, such as "creativecommons.org/licenses/by/"), are dropped as license."""

    @field_validator("allow_licenses")
    @classmethod
    def _without_scheme(cls, licenses: list[str]) -> list[str]:
        return sorted({re.sub(r"^(?:https?:)?//(?:www\.)?", "", license_.lower()) for license_ in licenses} - {""})


class MinDeclaredSide(StageConfig):
    """The key of DECLARED_TOO_SMALL."""

    min_declared_side: PositiveInt | None = None
    """Rows whose page declares a smaller width or height, in pixels, are dropped as declared_too_small."""


class MaxDeclaredAspect(StageConfig):
    """The key of DECLARED_ASPECT."""

    max_declared_aspect: float | None = Field(default=None, ge=1)
    """Rows whose page declares a larger ratio of longer to shorter side are dropped as declared_aspect."""


def _lacks_license(config: AllowLicenses) -> pl.Expr | None:
    bare = pl.col("license").str.to_lowercase().str.replace(r"^(?:https?:)?//(?:www\.)?", "")
    allowed = [bare.str.starts_with(license_) for license_ in config.allow_licenses]
    return ~pl.any_horizontal(allowed).fill_null(value=False) if allowed else None


def _has_aspect(config: MaxDeclaredAspect) -> pl.Expr | None:
    if config.max_declared_aspect is None:
        return None
    return pl.all_horizontal([pl.col(side).is_not_null() for side in _SIDES]) & (
        _LEAST * config.max_declared_aspect < _MOST
    )


OPT_OUT = Rule(
    reason=Reason.OPT_OUT,
    meaning="The page declares one of the opt-outs.",
    config=OptOut,
    drops=lambda config: (
        pl.col("page_opt_out").str.contains(rf"(?:^|,)(?:{'|'.join(map(re.escape, config.opt_out))})(?:,|$)")
        if config.opt_out
        else None
    ),
    order=30,
)
LICENSE = Rule(
    reason="license",
    meaning="No allowed licence is declared for the image.",
    config=AllowLicenses,
    drops=_lacks_license,
    order=32,
)
DECLARED_TOO_SMALL = Rule(
    reason="declared_too_small",
    meaning="The page declares a width or height below the limit.",
    config=MinDeclaredSide,
    drops=lambda config: None if config.min_declared_side is None else config.min_declared_side > _LEAST,
    order=34,
)
DECLARED_ASPECT = Rule(
    reason="declared_aspect",
    meaning="The page declares a ratio of the sides above the limit.",
    config=MaxDeclaredAspect,
    drops=_has_aspect,
    order=36,
)
