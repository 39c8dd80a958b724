"""Inner loops that numba compiles, and the tables that they read."""
