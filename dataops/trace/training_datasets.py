"""The datasets that a model was trained on, as the manifest of its training lists them."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from dataops.snapshot import MANIFEST, Input, Manifest, load_manifest
from dataops.store import Store


@dataclass(frozen=True)
class TrainingDataset:
    """A dataset of a training."""

    source: Input
    """The dataset as an input of the training."""
    manifest: Manifest | None
    """None if it is no longer in the store."""
    share: float
    """Share of the samples of an epoch that are of it, from 0 to 1."""
    is_own: bool
    """True for the dataset of the run; False for one that `[[train.dataset]]` names."""

    @property
    def key(self) -> str:
        """Key of the dataset."""
        return self.source.key


def stored_manifests(datasets: Iterable[TrainingDataset]) -> list[Manifest]:
    """Return the manifests of the datasets that are still in the store."""
    return [one.manifest for one in datasets if one.manifest is not None]


def list_training_datasets(train: Manifest, store: Store, own: Manifest | None = None) -> list[TrainingDataset]:
    """Return the datasets of a training: that of its run first, then the others in the order of its config.

    A dataset is found by its key, or by its content where that has another key by now, as lineage finds any input.

    Args:
        own: the dataset of the run at hand, which may have reused the training.

    Raises: CorruptPart if the manifest of one is invalid.
    """
    shares = list_shares(train)
    found = [_find_manifest(source, store, own) for source, _ in shares]
    if not train.config.get("dataset"):  # a dataset that grows, whose pairs are all seen equally often
        pairs = [manifest.counts.kept if manifest else 0 for manifest in found]
        shares = [(source, count / max(sum(pairs), 1)) for (source, _), count in zip(shares, pairs, strict=True)]
    return [
        TrainingDataset(source, manifest, share, number == 0)
        for number, ((source, share), manifest) in enumerate(zip(shares, found, strict=True))
    ]


def _find_manifest(source: Input, store: Store, own: Manifest | None) -> Manifest | None:
    if own is not None and own.content_digest == source.digest:
        return own
    if (found := load_manifest(store, "pack", source.key)) is not None:
        return found
    keys = [
        name.split("/")[1] for name in store.names("pack") if name.count("/") == 2 and name.endswith(f"/{MANIFEST}")
    ]
    manifests = (load_manifest(store, "pack", key) for key in keys)
    return next((one for one in manifests if one is not None and one.content_digest == source.digest), None)


def list_shares(train: Manifest) -> list[tuple[Input, float]]:
    """Return the datasets of a training as its inputs, in the same order, each with its share of the samples (0 to 1)."""
    sources = [source for source in train.inputs if source.stage == "pack"]
    weights = [Fraction(str(weight)) for weight in train.config.get("dataset") or [1] * len(sources)]
    return [(source, float(weight / sum(weights))) for source, weight in zip(sources, weights, strict=True)]
