"""What a process reports to its user while it runs."""
