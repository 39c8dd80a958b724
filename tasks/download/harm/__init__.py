"""Lists of digests of known harmful images: matched in memory, before a byte of an image is written."""
