"""Reads published lists of (URL, caption) pairs."""
