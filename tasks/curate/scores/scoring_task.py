"""One task of a scorer: some samples of a raw shard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoringTask:
    """What a scorer is to do with one raw shard."""

    scorer: str
    """Its digest: where its scores go in the cache."""
    name: str
    """Of the shard and, by a digest, of the rows: no result is taken for one of other rows."""
    tar: str
    """Name in the store."""
    extension: str
    """Of the pictures' members."""
    rows: str
    """Name in the store of the table (dataops.images.score_tables.TO_SCORE) of the samples to score."""
    count: int
    """How many they are."""

    @property
    def id(self) -> str:
        return f"score-{self.scorer[:8]}-{self.name}"
