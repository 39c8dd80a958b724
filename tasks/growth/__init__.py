"""Datasets that grow: each run adds what is new to the version before."""
