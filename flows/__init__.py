"""Order, parallelism, retries and schedule of the stages, and the `pairmill` command. No work of its own."""
