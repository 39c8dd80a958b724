"""Answer whether an image is in the datasets of a model, by a signed statement with proofs that others can check."""
