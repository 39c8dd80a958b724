"""`pairmill backfill`: a dataset version for each crawl, or for each value of a key, each without the pairs before it."""
