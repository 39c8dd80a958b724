"""`pairmill gc`: deletes the snapshots that nothing needs any more, and the leftovers of killed processes."""
