"""Side-by-side measurements against peers, each one command."""
