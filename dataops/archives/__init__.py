"""Readers of web archive formats: WARC, gzip members and HTTP bodies."""
