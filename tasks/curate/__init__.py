"""Make every decision about a pair that needs the pixels of its image."""
