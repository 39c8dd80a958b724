"""Image decoding, fingerprints, near-duplicates and rules over scores."""
