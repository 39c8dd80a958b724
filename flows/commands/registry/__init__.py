"""Commands over the versions of registered models."""
