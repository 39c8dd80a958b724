"""Define one task of a scorer: samples of a raw shard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoringTask:
    """The samples of one raw shard that a scorer has to score."""

    scorer: str
    """Digest of the scorer: the cache keeps its scores under it."""
    name: str
    """The shard's number and a digest of the rows, so that results of other rows are never used."""
    tar: str
    """Name of the tar in the store."""
    extension: str
    """Extension of the image members."""
    rows: str
    """Store name of the table (dataops.images.score_tables.TO_SCORE) of the samples to score."""

    @property
    def id(self) -> str:
        return f"score-{self.scorer[:8]}-{self.name}"
