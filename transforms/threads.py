"""Threads of this process: how many there may be, and blocks that are worked on side by side."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from lexbeam.models.cores import usable_cores

WORKERS_PER_HOST = "LEXBEAM_WORKERS_PER_HOST"

Item = TypeVar("Item")
Result = TypeVar("Result")


def kernel_threads() -> int:
    """Threads that a kernel of this process may use; asked by the worker, not by the driver.

    The cores of this machine, divided among its worker processes.
    """
    return max(1, usable_cores() // max(1, int(os.environ.get(WORKERS_PER_HOST, "1"))))


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """As `map`, on threads that work ahead; see `OrderedThreads`."""
    threads = OrderedThreads(function, num_threads)
    try:
        for item in items:
            yield from threads.put(item)
        yield from threads.rest()
    finally:
        threads.close()


class OrderedThreads(Generic[Item, Result]):
    """Applies a function on threads, and gives the results in the order of the items.

    The function must be safe to call from several threads, and release the interpreter lock for
    most of its time. Twice as many items as threads are held at most. With one thread everything
    happens in the caller's.

    Args:
        function: from an item to its result.
        num_threads: at least 1.
    """

    def __init__(self, function: Callable[[Item], Result], num_threads: int) -> None:
        self._function = function
        self._num_pending = 2 * num_threads
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        self._pending: deque[Future[Result]] = deque()

    def put(self, item: Item) -> Iterator[Result]:
        """Take an item; gives the results that are due. Raises what the function raised."""
        if self._pool is None:
            yield self._function(item)
            return
        self._pending.append(self._pool.submit(self._function, item))
        while len(self._pending) >= self._num_pending or self._pending and self._pending[0].done():
            yield self._pending.popleft().result()

    def rest(self) -> Iterator[Result]:
        """The results of all items that were taken. Raises what the function raised."""
        while self._pending:
            yield self._pending.popleft().result()

    def clear(self) -> None:
        """Forget what was taken."""
        for future in self._pending:
            future.cancel()
        self._pending.clear()

    def close(self) -> None:
        """Forget what was taken, and end the threads."""
        self.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
