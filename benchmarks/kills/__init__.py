"""Parts of the benchmark that kills processes and checks what a rerun makes of it."""
