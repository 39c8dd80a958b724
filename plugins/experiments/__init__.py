"""`pairmill experiment`: train variants of a config with several seeds, and decide which of them is better."""
