"""Do work for what is yielded next while the last result is used."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Result = TypeVar("Result")


def take_results(futures: Iterable["Future[Result]"], ahead: int, pool: Executor) -> Iterator[Result]:
    """Yield the results in order, while at most `ahead` later ones wait or are in progress; then end the pool.

    Args:
        futures: work for the pool, submitted when the next one is asked for.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for future in futures:
            waiting.append(future)
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # the `with` of the pool waits
