"""Plan a run before it starts: what is reused, what is made and why, and what it costs."""
