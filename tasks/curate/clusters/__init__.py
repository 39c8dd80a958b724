"""Config, fit and page of the clusters of image features."""
