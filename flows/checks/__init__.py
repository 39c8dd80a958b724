"""The checks of a run's dataset: the last version of its name, and the report on a page."""
