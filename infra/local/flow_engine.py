"""`python -m infra.local.flow_engine`: Prefect's engine, for a flow run of pairmill.

Prefect puts the folder of a deployment first on the import path before it loads a flow. A user's own `tasks` or `flows`
there would be imported in place of ours, so ours are imported before.
"""

import importlib
import runpy
from contextlib import suppress

from pairmill.launcher import PACKAGES

if __name__ == "__main__":
    for name in PACKAGES:
        with suppress(ModuleNotFoundError):  # plugins may be left out
            importlib.import_module(name)
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
