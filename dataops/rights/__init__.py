"""Parsing of what rights holders declare: robots.txt, X-Robots-Tag, TDMRep, opt-outs."""
