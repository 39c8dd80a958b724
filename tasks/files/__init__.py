"""Source files by path, HTTP or S3, read as streams that survive a broken connection."""
