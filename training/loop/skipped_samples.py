"""The samples that training could not read, counted against `train.max_skipped`."""

from collections.abc import Iterable
from dataclasses import asdict

from dataops.errors import ContractError
from training import distributed
from training.data.loader import Batch, Dataset, Skipped


class SkippedSamples:
    """The samples that could not be read, each counted once: those of this rank, and of all at each `gather`."""

    def __init__(self, dataset: Dataset, max_skipped: float):
        self._samples = set(dataset.skipped)
        self._total = len(dataset) + len(dataset.skipped)
        self._max_skipped = max_skipped

    def add(self, batch: Batch) -> int:
        """Add those of a batch, and return how many of them are new."""
        before = len(self._samples)
        self._samples.update(batch.skipped)
        return len(self._samples) - before

    def check(self) -> None:
        """Compare those of all ranks with the limit; all ranks together.

        Raises: ContractError if they are more than max_skipped.
        """
        self.gather()
        if len(self._samples) > self._max_skipped * self._total:
            example = min(self._samples, key=_order)
            raise ContractError(
                f"{len(self._samples)} of {self._total} samples cannot be read, more than max_skipped = "
                f"{self._max_skipped}; one is {example.key} of {example.shard}: {example.reason}"
            )

    def restore(self, items: Iterable[dict[str, str]]) -> None:
        """Add the samples that a checkpoint lists."""
        self._samples.update(Skipped(**item) for item in items)

    def gather(self) -> list[dict[str, str]]:
        """Return the skipped samples of all ranks, sorted by shard and key; all ranks together."""
        gathered = distributed.gather_objects([asdict(item) for item in self._samples])
        self._samples = {Skipped(**item) for of_rank in gathered for item in of_rank}
        return [asdict(item) for item in sorted(self._samples, key=_order)]


def _order(sample: Skipped) -> tuple[str, str]:
    return sample.shard, sample.key
