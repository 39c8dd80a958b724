"""The rules of the core: what drops a row by its URL, its page or its caption. `dataops.filters` evaluates them."""
