"""`source.kind = "site"`: a polite crawl by Scrapy, in its own process (`python -m plugins.crawl.job job.json`).

frontier.py stores the URLs and their state, so that a killed crawl resumes. politeness.py decides which URL is requested
when, which ones are forbidden, and at which IP address. spider.py reads the responses, and archive.py writes them as WARC.
"""
