"""Images from the WARC files of the sources, and images as fetched that later runs need not fetch again."""
