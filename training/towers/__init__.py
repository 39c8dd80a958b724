"""Towers whose weights others trained: their networks, their files and their dimensions."""
