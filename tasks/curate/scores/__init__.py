"""Compute model scores of images once, and cache them by content."""
