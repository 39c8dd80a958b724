"""A polite crawl by Scrapy, which runs in its own process (`python -m tasks.extract.crawl.job job.json`).

frontier.py stores the URLs and their state, so that a killed crawl resumes. scheduler.py decides which URL is requested
when, robots_middleware.py which URLs are forbidden, and resolver.py which IP addresses. spider.py reads the responses, and
archive.py writes them as WARC.
"""
