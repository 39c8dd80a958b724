"""Samples of a dataset for torch's DataLoader."""

from collections.abc import Iterator

from torch.utils.data import IterableDataset, get_worker_info

from pairmill.data import Dataset, Sample


class Samples(IterableDataset[Sample]):
    """The samples of a dataset; the workers of a DataLoader divide its shards among them."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __iter__(self) -> Iterator[Sample]:
        worker, shards = get_worker_info(), range(len(self.dataset.shards))
        return self.dataset.samples(shards if worker is None else shards[worker.id :: worker.num_workers])

    def __len__(self) -> int:
        return len(self.dataset)
