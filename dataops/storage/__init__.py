"""The implementations behind dataops.store: folder, S3, local cache and file formats."""
