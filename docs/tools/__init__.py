"""Scripts that write the reference pages and the outputs in docs/, and check what the pages hold."""
