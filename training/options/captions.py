"""The `[train.captions]` table."""

from typing import Annotated

from pydantic import Field

from dataops.schema import CaptionKind

CaptionWeights = dict[CaptionKind, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
"""Weights of the kinds of captions."""
