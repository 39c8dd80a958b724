"""Try a stage with other settings on a sample of a finished snapshot, in a temporary store."""
