"""The output of `pairmill takedown`, and `pairmill takedowns`."""
