"""Build manifests of snapshots that no stage made."""

from collections.abc import Sequence
from typing import Any

from dataops.snapshot import Counts, Manifest, Part, content_digest


def build_manifest(stage: str, parts: Sequence[Part] = (), **changes: Any) -> Manifest:
    """Return the manifest of a snapshot with these parts, whose other fields say as little as they may."""
    fields: dict[str, Any] = {
        "stage_version": 1, "key": "0" * 16, "inputs": [], "config": {}, "seed": 0, "code": {}, "counts": Counts(),
        "content_digest": content_digest(parts), "created_at": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return Manifest(stage=stage, parts=list(parts), **(fields | changes))
