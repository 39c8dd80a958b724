"""Checks for poisoned nights of a dataset that grows, and the quarantine of what they find (docs/rights/poison.md)."""
