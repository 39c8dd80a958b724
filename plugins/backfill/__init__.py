"""`pairmill backfill`: a version of a dataset that grows for each of several crawls, or for each value of a key."""
