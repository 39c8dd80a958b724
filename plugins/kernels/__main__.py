"""`python -m plugins.kernels`."""

import sys

from dataops.errors import PairmillError
from plugins.kernels import main

if __name__ == "__main__":
    try:
        main()
    except PairmillError as error:
        sys.exit(f"pairmill: {error}")
