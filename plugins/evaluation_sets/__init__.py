"""Download the evaluation sets of suites from the Hub: `pairmill datasets fetch`."""
