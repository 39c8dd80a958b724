"""Caption rules, deduplication, near-duplicates, query matching and balancing."""
