"""A polite crawl of given start addresses, by Scrapy, in a process of its own (`python -m tasks.extract.crawl.job job.json`).

frontier.py holds what is known and done, so that a killed crawl goes on; polite.py says what is asked for and when,
robots.py what may not be, resolver.py what may not be connected to; spider.py reads answers; archive.py keeps them as WARC.
"""
