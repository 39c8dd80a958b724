"""Recipes for models that were trained already: weights between a model and its adapted version."""
