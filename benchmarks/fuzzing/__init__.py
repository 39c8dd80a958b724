"""Hold the engines and the targets of `python -m benchmarks.fuzz`."""
