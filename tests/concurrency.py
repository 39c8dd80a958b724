"""Waits for a condition, work of several threads at once, and a race of theirs in a store."""

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


def check_race(store, name):
    """Let eight threads create one object at once: one of them does, and its bytes are kept."""
    won, barrier = [], threading.Barrier(8)

    def create(number):
        barrier.wait()
        if store.create(name, str(number).encode()):
            won.append(number)

    at_once(8, create)
    assert len(won) == 1
    assert store.read(name) == str(won[0]).encode()
