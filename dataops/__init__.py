"""Pure functions over Arrow, Polars and bytes: no network, clock, global randomness, prefect or mlflow."""
