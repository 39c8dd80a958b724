"""Cluster the images that curate keeps, drop semantic duplicates in the clusters, and balance them."""
