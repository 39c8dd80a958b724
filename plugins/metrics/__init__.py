"""`pairmill metrics`: an endpoint for Prometheus with figures of the runs, servers, queue and GPUs of a project."""
