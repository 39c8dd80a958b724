"""Build manifests of snapshots that no stage made."""

from dataops.snapshot import Counts, Manifest, content_digest

REQUIRED = {
    "download": {"shards": 1, "samples": 0, "bytes_fetched": 0, "hosts": {}},
    "pack": {"samples": 0, "shards": 1, "bytes": 0},
    "evaluate": {"metrics": {}},
    "register": {"model_uri": "models:/m/1", "model_name": "m", "version": "1"},
}
"""The facts that each manifest of a stage has."""


def build_manifest(stage, parts=(), **changes):
    """Return the manifest of a snapshot with these parts, whose other fields say as little as they may."""
    fields = {
        "stage_version": 1, "key": "0" * 16, "inputs": [], "config": {}, "seed": 0, "code": {}, "counts": Counts(),
        "content_digest": content_digest(parts), "created_at": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    changes["facts"] = REQUIRED.get(stage, {}) | changes.get("facts", {})
    return Manifest(stage=stage, parts=list(parts), **(fields | changes))
