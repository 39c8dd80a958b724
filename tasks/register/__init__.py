"""The register stage: the MLflow model version, its gate, its model card and its lineage events."""
