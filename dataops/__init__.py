"""Pure functions over Arrow, Polars and bytes: no network, clock, global randomness, prefect or mlflow."""

import os

# Read when Polars is loaded, here or in a worker process, which inherits it. By default Polars gives freed memory back
# within half a second, and the next slice of rows asks for it again: a tenth of a filter worker's processor time. What is
# kept is kept by each arena, of which there would be four a core.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:30000,muzzy_decay_ms:30000,narenas:2")
