"""Parsing of web pages and URLs: markup, captions, links and page-level signals."""
