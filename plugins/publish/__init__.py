"""Publish a dataset or a model to the Hub, S3 or a folder: what is sent, the gate, and the places."""
