"""`pairmill doctor`: checks of this machine and its servers, each with a remedy."""
