"""Lists that a config names by file or address: digests of images, and opt-outs by URL, domain or digest."""
