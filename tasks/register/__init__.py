"""The register stage: the MLflow model version, its gate, card and lineage events."""
