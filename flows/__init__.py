"""The order, retries and schedules of the stages, and the `pairmill` command. The work itself is in tasks/."""
