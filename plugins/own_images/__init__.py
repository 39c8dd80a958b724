"""Sources of your own: lists of pairs, and images that are read where they lie, without a request (a folder, WebDataset
shards, a dataset in Parquet).
"""
