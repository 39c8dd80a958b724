"""The evaluate stage: zero-shot transfer, retrieval and linear probes of a checkpoint."""
