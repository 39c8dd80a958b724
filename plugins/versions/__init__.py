"""`pairmill models` and `pairmill diff`: versions of a model, and what differs between two of them or of datasets."""
