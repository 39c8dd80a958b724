"""Side effects: one stage or one external system a file."""
