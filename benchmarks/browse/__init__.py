"""Measure `pairmill browse` over a synthetic dataset: how long it takes to open it, to query it, and to show images."""
