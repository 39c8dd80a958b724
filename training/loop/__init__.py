"""The training loop: step, loss, optimizer, health checks and logs."""
