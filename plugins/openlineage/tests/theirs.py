"""Events as the classes that OpenLineage generates from its specification, which refuse what it does not have."""

from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde

__all__ = ["Serde", "as_openlineage", "without_empty"]

FACETS = {
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "dataSource": facet_v2.datasource_dataset.DatasourceDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "sourceCodeLocation": facet_v2.source_code_location_job.SourceCodeLocationJobFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "parent": facet_v2.parent_run.ParentRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "tags": facet_v2.tags_run.TagsRunFacet,
}
PARTS = {
    "schema": {"fields": lambda rows: [facet_v2.schema_dataset.SchemaDatasetFacetFields(**row) for row in rows]},
    "parent": {"run": lambda run: facet_v2.parent_run.Run(**run), "job": lambda job: facet_v2.parent_run.Job(**job)},
    "tags": {"tags": lambda rows: [facet_v2.tags_run.TagsRunFacetFields(**row) for row in rows]},
}
"""Classes of the fields of facets that are no plain values."""


def as_openlineage(event):
    """Return the event as OpenLineage's own classes, which refuse unknown fields and missing required ones."""

    def facets(built):
        theirs = {}
        for name, facet in built.items():
            values = {field: value for field, value in facet.items() if not field.startswith("_")}
            values |= {field: build(values[field]) for field, build in PARTS.get(name, {}).items()}
            theirs[name] = FACETS[name](**values, producer=facet["_producer"])
        return theirs

    def dataset(kind, built):
        own = {name: facets(value) if "acets" in name else value for name, value in built.items()}
        return kind(**own)

    values = {name: value for name, value in event.items() if name != "schemaURL"}
    values |= {"eventType": event_v2.RunState(event["eventType"])}
    values["run"] = event_v2.Run(event["run"]["runId"], facets(event["run"].get("facets", {})))
    values["job"] = event_v2.Job(**event["job"] | {"facets": facets(event["job"]["facets"])})
    values["inputs"] = [dataset(event_v2.InputDataset, built) for built in event["inputs"]]
    values["outputs"] = [dataset(event_v2.OutputDataset, built) for built in event["outputs"]]
    return event_v2.RunEvent(**values)


def without_empty(built):
    """Remove the empty optional fields, which OpenLineage's classes write."""
    if isinstance(built, dict):
        return {
            name: value for name, value in ((n, without_empty(v)) for n, v in built.items()) if value not in ({}, [])
        }
    return [without_empty(one) for one in built] if isinstance(built, list) else built
