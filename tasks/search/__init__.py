"""Search the rows of snapshots: by an index, and for takedown requests."""
