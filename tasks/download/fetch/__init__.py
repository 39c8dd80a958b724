"""Fetches images for the download stage: the opener, and the pace, the threads and the rules of each host."""
