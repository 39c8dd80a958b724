"""Describe each dataset in Croissant 1.1 with its RAI extension, for programs: `croissant.json` beside the shards."""
