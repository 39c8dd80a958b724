"""Datasets of a project, for Python: tables of polars and Arrow, samples, torch, and Hugging Face's `datasets`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pairmill.launcher import inside, our_modules

if TYPE_CHECKING:
    import datasets
    import polars as pl
    import pyarrow as pa
    import torch.utils.data

    from dataops.store import Store
    from tasks.growth.versions import Version


class Sample(NamedTuple):
    """An image with its caption, as a shard has it."""

    uid: str
    image: bytes
    """The file of the image: JPEG, PNG or WebP."""
    caption: str
    metadata: dict[str, Any]
    """The row of the sample: its URL, page, licence and sizes (docs/reference/columns.md)."""


@dataclass(frozen=True)
class Dataset:
    """A dataset: a complete snapshot of pack, which never changes; of a dataset that grows, with those before it."""

    key: str
    store: str
    """Its store: a folder, or s3://bucket/prefix."""
    manifest: dict[str, Any] = field(repr=False)
    """How it was made: inputs, config, counts, facts and files."""
    earlier: "tuple[Dataset, ...]" = field(default=(), repr=False)
    """The datasets that earlier runs added, oldest first, if it grows. Their rows come before its own."""

    def __len__(self) -> int:
        return int(self.manifest["counts"]["kept"]) + sum(map(len, self.earlier))

    @property
    def shards(self) -> list[str]:
        """Paths or s3:// URLs of the tars, in their order: what `webdataset.WebDataset` and trainers read."""
        return [f"{self.store}/{name}" for name in self._list_shards()]

    def arrow(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """Return the rows in the order of the shards. Raises: CorruptPart of a damaged file."""
        with our_modules():
            import pyarrow as pa

            from dataops.snapshot import find_manifest, read_parts
            from dataops.store import open_store

            store, tables = open_store(self.store), list[pa.Table]()
            for one in (*self.earlier, self):
                manifest = find_manifest(store, "pack", one.key)
                if manifest is None:
                    raise LookupError(f"{self.store} no longer has the dataset {one.key}")
                tables.append(read_parts(store, manifest, columns=None if columns is None else list(columns)))
            return pa.concat_tables(tables, promote_options="default")

    def frame(self, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """Return the rows in the order of the shards, as a frame of polars. Raises: CorruptPart of a damaged file."""
        import polars as pl

        frame = pl.from_arrow(self.arrow(columns))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def samples(self, shards: Sequence[int] | None = None) -> Iterator[Sample]:
        """Yield the samples in their order, reading each shard as a stream.

        Args:
            shards: numbers of the shards to read; by default all.

        Raises: CorruptPart if a shard is damaged.
        """
        return inside(self._samples(shards))

    def torch(self) -> "torch.utils.data.IterableDataset[Sample]":
        """Return the samples for `torch.utils.data.DataLoader`, whose workers divide the shards among them."""
        from pairmill.torch_data import Samples

        return Samples(self)

    def hugging_face(self) -> "datasets.IterableDataset":
        """Return the samples as a stream of Hugging Face's `datasets`, which must be installed."""
        import datasets

        return datasets.load_dataset("webdataset", data_files={"train": self.shards}, split="train", streaming=True)

    def _list_shards(self) -> list[str]:
        """Return the names of the tars in the store, in their order."""
        tars = [part for part in self.manifest["parts"] if part["name"].endswith(".tar")]
        return [
            *(name for one in self.earlier for name in one._list_shards()),
            *(
                f"{part.get('home') or f'pack/{self.key}'}/{part['name']}"
                for part in sorted(tars, key=itemgetter("name"))
            ),
        ]

    def _samples(self, shards: Sequence[int] | None) -> Iterator[Sample]:
        from dataops.shards.tar import read_samples
        from dataops.store import open_store

        store, names = open_store(self.store), self._list_shards()
        for number in range(len(names)) if shards is None else shards:
            name = names[number]
            with store.open_once(name) as file:
                for uid, members in read_samples(file, name):
                    images = [data for extension, data in members.items() if extension not in ("txt", "json")]
                    yield Sample(uid, images[0], members["txt"].decode(), json.loads(members["json"]))


def dataset(name: str | None = None, *, store: str | None = None) -> Dataset:
    """Return a dataset of this project.

    Args:
        name: the name of a config, whose newest complete dataset is returned; a run; or a dataset's key. By default the
            newest complete dataset of the project. Or the version `NAME-DIGEST/NUMBER` of one that grows.
        store: a further store to search: a folder, or s3://bucket/prefix.

    Raises: LookupError if there is none.
    """
    with our_modules():
        from flows.records import find_named_version, find_snapshot, list_runs, load_manifests, load_run
        from infra.local.services import home
        from tasks.growth.versions import find_newest, find_version

        place: Path = home()
        if name is not None and (found := find_snapshot(name, place, store)) and found[0].stage == "pack":
            return Dataset(found[0].key, found[1].uri, json.loads(found[0].model_dump_json()))
        if name is not None and (version := find_named_version(name, place, store)):
            return _open_version(*version)
        for record in reversed(list_runs(place, store)):
            if name in (None, record.name, record.run_id):
                record, opened = load_run(record.run_id, place, store)
                if record.version:
                    version = find_version(opened, record.version)
                    return _open_version(
                        version if name == record.run_id else find_newest(opened, version.line), opened
                    )
                for manifest in load_manifests(record, opened):
                    if manifest.stage == "pack":
                        return Dataset(manifest.key, opened.uri, json.loads(manifest.model_dump_json()))
    what = "complete dataset" if name is None else f"complete dataset of a config or run {name!r}, or with that key"
    raise LookupError(f"{place} has no {what}; `pairmill runs` lists the runs")


def _open_version(version: "Version", store: "Store") -> Dataset:
    """Return the newest dataset of a version, with those that earlier runs added."""
    from tasks.growth.versions import find_packs

    packs = find_packs(store, version)
    found = [Dataset(pack.key, store.uri, json.loads(pack.model_dump_json())) for pack in packs]
    return replace(found[-1], earlier=tuple(found[:-1]))
