"""Waits for a condition, and work of several threads at once."""

import threading
import time


def wait_for(condition, seconds=100, pause=0.02):
    """Poll until the condition returns a true value, and return that value."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(pause)
    return answer


def at_once(number, work):
    """Call a function with 0, 1, 2, ... in a thread each, and wait for all."""
    threads = [threading.Thread(target=work, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
