"""The stages of benchmarks/gpu.py: gates, which compare results, and timings. Each runs in a process of its own."""
