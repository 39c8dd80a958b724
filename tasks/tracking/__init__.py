"""The MLflow client: runs, metadata and the model registry."""
