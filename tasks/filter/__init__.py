"""The filter stage: all decisions about a pair that need only text and URLs."""
