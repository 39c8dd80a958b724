"""The WebDataset shard format: tar writing, tar reading and index layout."""
