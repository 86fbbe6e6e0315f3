"""A DoFn that treats the blocks of a split on all cores of its process, and keeps their order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import apache_beam as beam
import pyarrow as pa

from lexbeam.transforms import blocks
from lexbeam.transforms.threads import OrderedThreads, kernel_threads

Result = TypeVar("Result")


class MapBlocksDoFn(beam.DoFn, Generic[Result]):  # type: ignore[misc]
    """Blocks in, outputs in the same order; threads work ahead, and end with the split.

    A subclass says what happens to a block (`compute`, on any thread), what is emitted for its
    result (`emit`, in the bundle's thread: counters belong there) and for the block that ends a
    split (`emit_last`).
    """

    _threads: OrderedThreads[pa.RecordBatch, Result] | None = None

    @abstractmethod
    def compute(self, block: pa.RecordBatch) -> Result:
        """The result of one block; called from several threads."""

    @abstractmethod
    def emit(self, result: Result, split: int) -> Iterable[Any]:
        """Outputs for one block's result."""

    @abstractmethod
    def emit_last(self, split: int) -> Iterable[Any]:
        """Outputs for the end of a split."""

    def setup(self) -> None:
        self._threads = OrderedThreads(self.compute, kernel_threads())

    def start_bundle(self) -> None:
        # Of a bundle that failed before.
        assert self._threads is not None
        self._threads.clear()

    def process(self, block: pa.RecordBatch) -> Iterator[Any]:
        assert self._threads is not None
        split = blocks.split_of(block)
        is_last = blocks.is_last(block)
        for result in self._threads.rest() if is_last else self._threads.put(block):
            yield from self.emit(result, split)
        if is_last:
            yield from self.emit_last(split)

    def teardown(self) -> None:
        if self._threads is not None:
            self._threads.close()
            self._threads = None
