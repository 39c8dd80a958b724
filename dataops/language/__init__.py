"""Detects the language of captions."""
