"""The training loop: step, optimizer, health checks and logs."""
