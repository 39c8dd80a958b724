"""Train a model again as if removed pairs had never been in its batches, from a checkpoint that did not see them."""
