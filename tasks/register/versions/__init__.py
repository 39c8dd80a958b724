"""The versions of a registered model: the history of their metrics, and what differs between two of them."""
