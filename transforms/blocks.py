"""Blocks: the elements that flow between transforms.

A block is a `pyarrow.RecordBatch` of some hundred documents of one split, in the split's order.
Its schema metadata says which split it belongs to; every split ends with one empty block that is
marked as its last, so that a transform that buffers knows when to flush, and the writer knows
that it has seen the whole split.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa

_SPLIT = b"lexbeam.split"
_LAST = b"lexbeam.last"
_STATISTICS = b"lexbeam.statistics"


class RecordBatchCoder(beam.coders.Coder):  # type: ignore[misc]
    """Arrow IPC stream of one record batch; Beam's default would pickle whole parent buffers."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(value)
        return bytes(sink.getvalue())

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        with pa.ipc.open_stream(pa.py_buffer(encoded)) as reader:
            return reader.read_next_batch()

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """Bytes, about: Beam asks it of many elements, and would encode each of them."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """The same batch gives the same bytes."""
        return True

    def to_type_hint(self) -> Any:
        return pa.RecordBatch


beam.coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Batches of one schema, at least one, as one; a single one is not copied."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def of_split(batch: pa.RecordBatch, split: int) -> pa.RecordBatch:
    """The batch as a block of a split."""
    return batch.replace_schema_metadata({_SPLIT: str(split).encode()})


def last_block(
    schema: pa.Schema, split: int, statistics: Mapping[str, Any] | None = None
) -> pa.RecordBatch:
    """The empty block that ends a split; `statistics` (JSON-able) travel to the writer with it."""
    metadata = {_SPLIT: str(split).encode(), _LAST: b"1"}
    if statistics:
        metadata[_STATISTICS] = json.dumps(statistics, sort_keys=True).encode()
    empty = pa.RecordBatch.from_pylist([], schema=schema.remove_metadata())
    return empty.replace_schema_metadata(metadata)


def split_of(block: pa.RecordBatch) -> int:
    """The index of the split that the block belongs to."""
    return int(block.schema.metadata[_SPLIT])


def is_last(block: pa.RecordBatch) -> bool:
    """Whether the block ends its split (it is empty then)."""
    return _LAST in (block.schema.metadata or {})


def statistics_of(block: pa.RecordBatch) -> dict[str, Any]:
    """Statistics that a transform sent along with the last block; empty where there are none."""
    return dict(json.loads((block.schema.metadata or {}).get(_STATISTICS, b"{}")))


def mark_split(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, split: int
) -> Iterator[pa.RecordBatch]:
    """The batches as blocks of a split, its last block after them."""
    for batch in batches:
        yield of_split(batch, split)
    yield last_block(schema, split)
