"""How any stage runs: context, snapshot, lease, task mapping, exchange and Ray pool."""
