"""Estimate the rows of the sources of a config, by what was extracted before; each kind of source has its estimate."""

from collections.abc import Sequence

from dataops.snapshot import Manifest
from dataops.storage.base import Store
from tasks.engine.context import Context
from tasks.extract.sources.base import EarlierSource, Source, SourceEstimate


def estimate_sources(
    tables: Sequence[Source], store: Store, context: Context, earlier: Sequence[Manifest]
) -> SourceEstimate:
    """Return the estimate for all sources of a config.

    Args:
        earlier: earlier snapshots of extract, the nearest first.
    """
    found = [
        table.estimate(store, context, next(filter(None, (_find_source(table, one) for one in earlier)), None))
        for table in tables
    ]
    return SourceEstimate(
        sum(one.rows for one in found),
        sum(one.web_bytes for one in found),
        sum(one.files for one in found),
        sum(one.extracted_before for one in found),
        sum(one.new_rows for one in found),
        ", ".join(dict.fromkeys(one.basis for one in found)),
        any(one.at_most for one in found),
    )


def _find_source(source: Source, manifest: Manifest) -> EarlierSource | None:
    """Return what an earlier snapshot has of a source of the same kind."""
    single = {**manifest.facts, "kind": manifest.config.get("kind"), "counts": manifest.counts.model_dump()}
    found = (
        source.describe_earlier(facts, manifest)
        for facts in manifest.facts.get("sources") or [single]
        if facts["kind"] == source.kind and facts["counts"]["input"]
    )
    return next(filter(None, found), None)
