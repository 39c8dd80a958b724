"""`source.kind = "wat"` and `"common_crawl"`: page metadata of Common Crawl, which has no images and few licences."""
