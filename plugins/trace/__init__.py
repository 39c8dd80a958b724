"""`pairmill trace`: where a pair, a dataset or a model comes from, and what was made from it."""
