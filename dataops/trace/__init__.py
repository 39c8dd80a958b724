"""Finds the rows of a URL, uid, domain or image in snapshots."""
