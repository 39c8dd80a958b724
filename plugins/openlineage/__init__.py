"""OpenLineage: events about snapshots and runs, which catalogues read, and the transport to a server."""
