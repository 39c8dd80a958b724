"""Describe snapshots as Prefect assets, whose materialisations and lineage Prefect Cloud shows.

Prefect's open-source server stores the events, but has no page for assets.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect.assets import Asset, AssetProperties, add_asset_metadata
from prefect.context import AssetContext

from dataops.redaction import remove_credentials
from dataops.snapshot import Manifest
from tasks.engine.context import Context
from tasks.engine.stage import Plan

_RESTRICTED = re.compile(r"[^\w.~!$()*+,;=:@/-]")


@dataclass(frozen=True)
class StageAsset:
    """The snapshot of a stage as an asset, and the snapshots that it is made of."""

    asset: Asset
    upstream: Sequence[Asset]

    def describe(self, manifest: Manifest) -> None:
        """Add what the snapshot holds to the event of its materialisation. Call it in the task run that made it."""
        counts = manifest.counts.model_dump(mode="json")
        size = sum(part.bytes for part in manifest.parts)
        add_asset_metadata(self.asset, {"digest": manifest.content_digest, "bytes": size, **counts})


def describe_asset(planned: Plan[Any], context: Context) -> StageAsset | None:
    """Return the asset that a plan makes; None if the URI of the store makes no key of an asset, as a very long one."""
    store, stage = context.store.uri, planned.stage.name
    properties = AssetProperties(name=f"{context.run_name} {stage} {planned.key}", url=context.flow_run_url)
    try:
        asset = Asset(key=asset_key(store, stage, planned.key), properties=properties)
        upstream = [Asset(key=asset_key(store, manifest.stage, manifest.key)) for manifest in planned.upstream]
    except ValueError:  # pydantic's error
        return None
    return StageAsset(asset, upstream)


def asset_key(store_uri: str, stage: str, key: str) -> str:
    """Return the key of a snapshot: its URI, with `_` for each character that the key of an asset must not have."""
    uri = remove_credentials(store_uri)
    uri = uri if "://" in uri else f"file://{uri}"
    return _RESTRICTED.sub("_", f"{uri.rstrip('/')}/{stage}/{key}")


def forget_asset() -> None:
    """Emit no event about an asset for the present task run, because it made nothing."""
    if (assets := AssetContext.get()) is not None:
        assets.downstream_assets.clear()
