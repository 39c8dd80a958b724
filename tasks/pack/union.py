"""A version of a dataset that grows as one dataset: its rows, its pages and what it was made of, over all of its packs."""

from collections.abc import Sequence

from pydantic import Field

from dataops.digest import text_sha256
from dataops.facts import PackFacts
from dataops.snapshot import Counts, Manifest, Part
from dataops.store import Store
from dataops.trace.lineages import Lineage, load_lineages
from dataops.trace.requests import list_requests, load_targets
from tasks.growth.versions import Version, find_packs
from tasks.pack.card import render_html
from tasks.pack.card_samples import KEPT, Samples, sample_dropped, sample_kept
from tasks.pack.card_text import DatasetFacts
from tasks.pack.summary import NAMED, STEPPED, load_totals, merge
from tasks.reports.page import evenly_spaced


class Union(Manifest):
    """Several datasets as the manifest of one. The part `NAME` of the dataset KEY is `KEY/NAME`."""

    packs: tuple[Manifest, ...] = Field(exclude=True)

    def path(self, name: str) -> str:
        """Return the name in the store of a part."""
        key, _, own = name.partition("/")
        return next(pack for pack in self.packs if pack.key == key).path(own)

    def named(self, prefix: str, suffix: str = "") -> list[Part]:
        """Return the parts whose names in their datasets have this prefix and suffix, dataset by dataset."""
        return [
            part.model_copy(update={"name": f"{pack.key}/{part.name}", "home": ""})
            for pack in self.packs
            for part in pack.named(prefix, suffix)
        ]


def unite(name: str, packs: Sequence[Manifest], store: Store) -> Union:
    """Return some datasets as one.

    Args:
        name: its key, such as `LINE/2`.
        packs: oldest first.
    """
    newest, facts = packs[-1], [PackFacts.of(pack) for pack in packs]
    totals = [
        load_totals(store, pack) or {kind: getattr(one, kind) for kind in (*NAMED, *STEPPED)} | dict(one.further)
        for pack, one in zip(packs, facts, strict=True)
    ]
    sources = dict.fromkeys((name for one in facts for name in one.sources), 0)
    union = Union(
        **{**dict(newest), "schema_version": 1, "key": name, "parts": [], "table": None},
        packs=tuple(packs),
    ).model_copy(
        update={
            "inputs": list(dict.fromkeys(source for pack in packs for source in pack.inputs)),
            "counts": sum((pack.counts for pack in packs), Counts()),
            "created_at": max(pack.created_at for pack in packs),
            "content_digest": text_sha256("\n".join(pack.content_digest for pack in packs)),
            "facts": {
                "samples": sum(one.samples for one in facts),
                "shards": sum(one.shards for one in facts),
                "bytes": sum(one.bytes for one in facts),
                "columns": list(dict.fromkeys(column for one in facts for column in one.columns)),
                "takedowns": list(dict.fromkeys(key for one in facts for key in one.takedowns)),
                "sources": {name: sum(one.sources.get(name, 0) for one in facts) for name in sources},
                **merge(totals),
            },
        }
    )
    return union.model_copy(update={"parts": union.named("")})


def load_union(version: Version, store: Store) -> tuple[Union, list[Lineage]]:
    """Return a version as one dataset, as takedowns have left it, and the lineages of its datasets, oldest first.

    Raises: ContractError if a dataset is not in the store.
    """
    packs = find_packs(store, version)
    return unite(version.name, packs, store), [one for pack in packs for one in load_lineages(store, pack)]


def render_version(version: Version, store: Store) -> str:
    """Return the page of a version for a browser. Raises: as load_union."""
    union, lineages = load_union(version, store)
    dataset = DatasetFacts.read(union, lineages, location="pack")
    parts = evenly_spaced(union.named("part-", ".parquet"))
    tables = [(union.path(one.name), one.bytes) for one in parts]
    kept = sample_kept(store, tables, dataset.image_extension, -(-KEPT // len(parts)))
    dropped = sample_dropped(store, dataset.lineage, load_targets(store, list_requests(store)))
    return render_html(dataset, Samples(kept, dropped))
