"""Servers and workers that run on this machine, and their supervision."""
