"""Measurements, ours and a peer's side by side, one command each: `python -m benchmarks.NAME [--quick] [--json]`."""
