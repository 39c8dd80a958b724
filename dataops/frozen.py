"""The base class of models that do not change."""

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """A model that is immutable and rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
