"""Cases that a benchmark measures, each beside its peer."""
