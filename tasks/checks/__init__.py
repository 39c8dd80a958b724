"""The checks of a dataset between `pack` and `train`: their bounds, their figures and the report."""
