"""Readers of web archive formats: WARC, WAT, gzip members and HTTP bodies."""
