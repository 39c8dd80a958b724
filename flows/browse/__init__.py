"""`pairmill browse`: a web page on loopback over a dataset version, made of pages that the server renders."""
