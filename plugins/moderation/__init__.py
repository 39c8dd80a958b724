"""Find images and words that a dataset should not have: scores of pornography and of faces."""
