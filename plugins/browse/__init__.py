"""Queries over the snapshots of a dataset, for the web page of `pairmill browse`: rows, images, features, comparison."""
