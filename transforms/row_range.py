"""Some rows of a split by themselves, to find out which of them makes a process die."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from lexbeam.transforms.part_files import BlockSource


@dataclass(frozen=True)
class RowRange:
    """The rows [start, stop) of a source's splits; to the end where stop is None."""

    source: BlockSource
    start: int = 0
    stop: int | None = None

    @property
    def schema(self) -> pa.Schema:
        """Schema of the blocks."""
        return self.source.schema

    def batches(self, split: int) -> Iterator[pa.RecordBatch]:
        """The rows in order; nothing behind them is read."""
        first_row = 0
        for batch in self.source.batches(split):
            if self.stop is not None and first_row >= self.stop:
                return
            start = max(0, self.start - first_row)
            stop = batch.num_rows if self.stop is None else self.stop - first_row
            if start < min(stop, batch.num_rows):
                yield batch.slice(start, stop - start)
            first_row += batch.num_rows
