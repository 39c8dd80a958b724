"""The extract stage: every (URL, caption) pair of a source, with its origin."""
