"""The features that other models have of a dataset: computed once, kept in files, read by rows."""
