"""Readers of published lists of (URL, caption) pairs."""
