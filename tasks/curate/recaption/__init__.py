"""Adds captions that a model writes, by an endpoint that the config names."""
