"""The job that finds clusters of image features."""
