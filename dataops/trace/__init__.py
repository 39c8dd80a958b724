"""The index that leads from a URL or uid to the snapshots that hold it."""
