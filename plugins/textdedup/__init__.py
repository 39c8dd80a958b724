"""Near-duplicate captions: `[filter.near_captions]` keeps one of the captions that differ in a few words or letters."""
