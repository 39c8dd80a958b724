"""`pairmill queries build`: lists of queries for `[filter.balance]`, from texts, titles and lemmas."""
