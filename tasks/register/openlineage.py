"""Convert manifests to OpenLineage events, which catalogues such as Marquez and DataHub read.

There is one COMPLETE event for each stage, and no START, because a manifest does not hold the start time of its stage.
Names and ids depend on the keys of the snapshots alone: the same snapshots give the same events.

Source: OpenLineage specification 2-0-2 (https://openlineage.io/spec/2-0-2/OpenLineage.json) and its facets.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from dataops.redaction import remove_credentials
from dataops.schema import CURATED, DOWNLOADED, FILTERED, PACKED, PAIRS
from dataops.snapshot import Input, Manifest
from dataops.stages import SOURCE_NAMES

PRODUCER = "https://github.com/pairmill/pairmill"
SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_NAMESPACE = uuid.UUID("6f1c7a52-5a06-5c1c-9f0e-6d1d7a4b7c11")
"""Arbitrary, but fixed: run ids are derived from it."""
SCHEMAS: Mapping[str, pa.Schema] = {
    "extract": PAIRS, "filter": FILTERED, "download": DOWNLOADED, "curate": CURATED, "pack": PACKED,
}  # fmt: skip
"""Columns of the kept rows of each stage that processes pairs."""


def build_events(manifests: Iterable[Manifest], store_uri: str) -> list[dict[str, Any]]:
    """Return one event for each stage, oldest first."""
    ordered = sorted(manifests, key=lambda manifest: (_time(manifest), manifest.stage))
    return [_event(manifest, remove_credentials(store_uri)) for manifest in ordered]


def render_events(manifests: Iterable[Manifest], store_uri: str) -> str:
    """Return the events as JSON lines, the form of OpenLineage's file transport."""
    return "".join(json.dumps(event, sort_keys=True) + "\n" for event in build_events(manifests, store_uri))


def _time(manifest: Manifest) -> datetime:
    return datetime.fromisoformat(manifest.created_at)


def _event(manifest: Manifest, store: str) -> dict[str, Any]:
    output = _dataset(manifest.as_input(), store, manifest)
    size = sum(part.bytes for part in manifest.parts)
    statistics = {"rowCount": manifest.counts.kept, "size": size, "fileCount": len(manifest.parts)}
    output["outputFacets"] = {"outputStatistics": _facet("1-0-2/OutputStatisticsOutputDatasetFacet", **statistics)}
    code = {"type": "git", "url": PRODUCER, "version": manifest.code.get("commit") or "unknown"}
    job_type = {"processingType": "BATCH", "integration": "PAIRMILL", "jobType": "STAGE"}
    return {
        "eventType": "COMPLETE",
        "eventTime": _time(manifest).isoformat(),
        "producer": PRODUCER,
        "schemaURL": SPEC,
        "run": {"runId": str(uuid.uuid5(_NAMESPACE, f"{store}/{manifest.stage}/{manifest.key}"))},
        "job": {
            "namespace": "pairmill",
            "name": manifest.stage,
            "facets": {
                "sourceCodeLocation": _facet("1-1-0/SourceCodeLocationJobFacet", **code),
                "jobType": _facet("2-0-4/JobTypeJobFacet", **job_type),
            },
        },
        "inputs": [_dataset(source, store) for source in manifest.inputs if source.stage != SOURCE_NAMES],
        "outputs": [output],
    }


def _dataset(source: Input, store: str, manifest: Manifest | None = None) -> dict[str, Any]:
    """Return a snapshot, or an input from outside the store, as an OpenLineage dataset."""
    is_stored = manifest is not None or (source.stage not in ("source", "suite") and "." not in source.stage)
    namespace, name = (store, f"{source.stage}/{source.key}") if is_stored else (source.stage, source.key)
    facets: dict[str, Any] = {
        "dataSource": _facet("1-0-1/DatasourceDatasetFacet", name=namespace, uri=_uri(namespace)),
        "version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=source.digest),
    }
    if source.stage in SCHEMAS:
        fields = [{"name": field.name, "type": str(field.type)} for field in SCHEMAS[source.stage]]
        facets["schema"] = _facet("1-2-0/SchemaDatasetFacet", fields=fields)
    return {"namespace": namespace, "name": name, "facets": facets}


def _uri(namespace: str) -> str:
    if "://" in namespace:
        return namespace
    return f"file://{namespace}" if namespace.startswith("/") else f"urn:{namespace}"


def _facet(schema: str, **values: Any) -> dict[str, Any]:
    version, name = schema.split("/")
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{version}/{name}.json#/$defs/{name}", **values}
