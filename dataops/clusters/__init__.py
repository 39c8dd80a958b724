"""Arithmetic on clusters of image features: exact cosines, semantic duplicates and sampling probabilities."""
