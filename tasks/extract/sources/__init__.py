"""The kinds of source that extract reads, one module per kind."""
