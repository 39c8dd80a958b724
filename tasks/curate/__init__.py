"""The curate stage: all decisions about a pair that need its pixels."""
