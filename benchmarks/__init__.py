"""Measure pairmill and its peers side by side, with one command each: `python -m benchmarks.NAME [--quick] [--json]`."""
