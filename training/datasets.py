"""The tables `[[train.dataset]]`: the datasets of a training, with their weights."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class DatasetConfig(BaseModel):
    """One `[[train.dataset]]` table: a dataset that a training reads, and its share of an epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    """Key of a dataset (pack snapshot) in the store of the run; not set: the run's own, which exactly one table must be."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Share of the samples of an epoch that are of this dataset, relative to the sum of all weights."""


def _put_own_first(tables: tuple[DatasetConfig, ...]) -> tuple[DatasetConfig, ...]:
    """Return the run's own dataset first, and nothing if it is the only one."""
    own, others = [one for one in tables if one.key is None], [one for one in tables if one.key is not None]
    if tables and len(own) != 1:
        raise ValueError(f"{len(own)} tables have no key; exactly one must be the run's own dataset, without a key")
    keys = [one.key for one in others]
    if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{', '.join(twice)} is named twice; name each dataset once, with the sum of its weights")
    return (*own, *others) if others else ()


Datasets = Annotated[tuple[DatasetConfig, ...], AfterValidator(_put_own_first)]
