"""Build OpenLineage events, which catalogues such as Marquez and DataHub read.

Source: OpenLineage specification 2-0-2 (https://openlineage.io/spec/2-0-2/OpenLineage.json) and its facets.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from dataops.schema import CURATED, DOWNLOADED, FILTERED, PAIRS
from dataops.snapshot import Input, Manifest
from dataops.stages import SOURCE, SOURCE_NAMES

PRODUCER = "https://github.com/pairmill/pairmill"
NAMESPACE = "pairmill"
"""Namespace of the jobs."""
SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
SCHEMAS: Mapping[str, pa.Schema] = {
    "extract": PAIRS, "filter": FILTERED, "download": DOWNLOADED, "curate": CURATED, "pack": CURATED,
}  # fmt: skip
"""Columns of the kept rows of each stage that processes pairs."""

EventType = Literal["START", "COMPLETE", "FAIL", "ABORT"]


def build_event(
    kind: EventType,
    time: datetime,
    run: Mapping[str, Any],
    job: Mapping[str, Any],
    inputs: Iterable[Mapping[str, Any]] = (),
    outputs: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return one event.

    Args:
        time: with a time zone.
        run: `runId`, a UUID, and perhaps `facets`.
        job: see `build_job`.
        inputs: see `build_inputs`.
        outputs: see `build_output`.
    """
    event: dict[str, Any] = {"eventType": kind, "eventTime": time.isoformat(), "producer": PRODUCER, "schemaURL": SPEC}
    return {**event, "run": dict(run), "job": dict(job), "inputs": [*inputs], "outputs": [*outputs]}


def build_job(name: str, job_type: str, commit: str | None) -> dict[str, Any]:
    """Return a job, with the commit of the code that it runs."""
    code = {"type": "git", "url": PRODUCER, "version": commit or "unknown"}
    kind = {"processingType": "BATCH", "integration": "PAIRMILL", "jobType": job_type}
    facets = {
        "sourceCodeLocation": build_facet("1-1-0/SourceCodeLocationJobFacet", **code),
        "jobType": build_facet("2-0-4/JobTypeJobFacet", **kind),
    }
    return {"namespace": NAMESPACE, "name": name, "facets": facets}


def build_inputs(sources: Iterable[Input], store: str) -> list[dict[str, Any]]:
    """Return the inputs of a snapshot as datasets.

    Args:
        store: URI of the store, without credentials.
    """
    return [_dataset(source, store) for source in sources if source.stage != SOURCE_NAMES]


def build_output(manifest: Manifest, store: str) -> dict[str, Any]:
    """Return a complete snapshot as a dataset, with its number of rows and bytes.

    Args:
        store: URI of the store, without credentials.
    """
    size = sum(part.bytes for part in manifest.parts)
    statistics = {"rowCount": manifest.counts.kept, "size": size, "fileCount": len(manifest.parts)}
    facets = {"outputStatistics": build_facet("1-0-2/OutputStatisticsOutputDatasetFacet", **statistics)}
    return {**_dataset(manifest.as_input(), store, is_snapshot=True), "outputFacets": facets}


def _dataset(source: Input, store: str, *, is_snapshot: bool = False) -> dict[str, Any]:
    """Return a snapshot, or an input from outside the store, as an OpenLineage dataset."""
    is_stored = is_snapshot or (source.stage not in (SOURCE, "suite") and "." not in source.stage)
    namespace, name = (store, f"{source.stage}/{source.key}") if is_stored else (source.stage, source.key)
    facets: dict[str, Any] = {
        "dataSource": build_facet("1-0-1/DatasourceDatasetFacet", name=namespace, uri=_uri(namespace)),
        "version": build_facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=source.digest),
    }
    if source.stage in SCHEMAS:
        fields = [{"name": field.name, "type": str(field.type)} for field in SCHEMAS[source.stage]]
        facets["schema"] = build_facet("1-2-0/SchemaDatasetFacet", fields=fields)
    return {"namespace": namespace, "name": name, "facets": facets}


def _uri(namespace: str) -> str:
    if "://" in namespace:
        return namespace
    return f"file://{namespace}" if namespace.startswith("/") else f"urn:{namespace}"


def build_facet(schema: str, **values: Any) -> dict[str, Any]:
    """Return a facet.

    Args:
        schema: `VERSION/NAME` of its schema.
    """
    version, name = schema.split("/")
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{version}/{name}.json#/$defs/{name}", **values}
