"""One bad document costs only itself: a block that fails is halved down to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from lexbeam.models.failures import is_processing_error

Result = TypeVar("Result")


def process_bisecting(
    batch: pa.RecordBatch,
    process: Callable[[pa.RecordBatch], Result],
    reject: Callable[[pa.RecordBatch, BaseException], Result],
) -> list[Result]:
    """Results of the batch, or of its pieces in order where the whole fails.

    reject: gets a batch of the one row that fails alone, and its error.
    Raises what no document can be to blame for, and MemoryError.
    """
    try:
        return [process(batch)]
    except BaseException as error:
        is_document = is_processing_error(error) and not isinstance(error, MemoryError)
        if not is_document or batch.num_rows == 0:
            raise
        if batch.num_rows == 1:
            return [reject(batch, error)]
    middle = batch.num_rows // 2
    left = process_bisecting(batch.slice(0, middle), process, reject)
    return left + process_bisecting(batch.slice(middle), process, reject)
