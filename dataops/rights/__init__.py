"""Parses what rights holders declare: robots.txt, X-Robots-Tag, TDMRep, marks inside images."""
