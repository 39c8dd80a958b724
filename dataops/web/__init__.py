"""Parses web pages and URLs: markup, images, captions, links, and what a page declares."""
