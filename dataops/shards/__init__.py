"""Read and write shards in the WebDataset format, and their indexes."""
