"""Registered and local models: lookup, packaging, export, and the MLflow pyfunc."""
