"""Recipes for models that were trained already: rates by depth, and weights between a model and its adapted version."""
