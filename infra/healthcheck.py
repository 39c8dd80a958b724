"""Health check of a container: `python -m infra.healthcheck URL` exits with 0 where the URL answers 2xx within 5 seconds.

The images have no curl, and need none.
"""

import sys
import urllib.request


def main(arguments: list[str]) -> int:
    """Ask once; the reason for a failure goes to standard error, where `docker inspect` shows it."""
    (url,) = arguments
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5):
            return 0
    except OSError as error:  # HTTP errors too
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
