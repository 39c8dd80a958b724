"""Evaluation protocols, metrics and datasets."""
