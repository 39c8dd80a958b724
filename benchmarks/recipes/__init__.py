"""Compare the filters of DataComp's table on one pool: python -m benchmarks.recipes."""
