"""The pack stage: the versioned training dataset and its card."""
