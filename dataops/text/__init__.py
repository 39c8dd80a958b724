"""Counts in captions and URLs, duplicates and near-duplicates, query matching and balancing."""
