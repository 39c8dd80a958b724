"""Cluster the images that curate keeps, and drop those that are like no target."""
