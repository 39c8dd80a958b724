"""The commands that write documents of a model or a dataset: `summary` and `bom`."""
