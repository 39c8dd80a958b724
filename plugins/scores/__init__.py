"""Score pairs with models, and select by rules over the scores."""
