"""Questions and changes across snapshots: trace, diff, takedown and garbage collection."""
