"""Define the cases of the benchmarks, each with its peer."""
