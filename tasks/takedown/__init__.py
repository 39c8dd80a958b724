"""What a takedown deletes beside rows and shards, the search that proves it, and the register of requests."""
