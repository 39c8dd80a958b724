"""Kill the processes of runs, and check the result of the rerun."""
