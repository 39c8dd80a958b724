"""Training on several machines that a scheduler starts with the same command (`train.launch = "nodes"`)."""
