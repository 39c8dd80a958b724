"""Erase all that pairmill wrote of removed pairs, and search it: rows, records, pages, caches, and MLflow."""
