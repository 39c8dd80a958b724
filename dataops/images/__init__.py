"""Decodes images, computes their fingerprints, finds near-duplicates, and applies rules over scores."""
