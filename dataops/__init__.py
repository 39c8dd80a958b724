"""Functions over Arrow, Polars and bytes: no network, clock, global randomness, prefect or mlflow.

Three modules do more than compute: `storage/` reads and writes the store and its local cache,
`kernels/compiled.py` keeps tables that take long to build under `PAIRMILL_HOME/tables`, and
`home.py` creates private folders. The import of this package sets environment variables of the
allocators of Polars and Arrow: they must be there before any module loads these, in this process
and in the workers that inherit them.
"""

import os

# By default Polars returns freed memory to the system within half a second, and the next slice of rows requests it again:
# a tenth of a filter worker's CPU time. Each arena keeps its own memory, and there would be four arenas a core.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:30000,muzzy_decay_ms:30000,narenas:2")

# Arrow's default, mimalloc, asks for huge pages: a new worker zeroes 2 MiB for each few KB that it uses first, which was a
# fifth of the CPU time of its first file.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
