"""Reads a split: every document that stands in it is one row, good or rejected, in file order.

A rejected row has no content but an error type and message; nothing is skipped but blank lines.
The rows of all blocks of all splits, one after the other, are the same for any block size and any
way to cut the input.

| error type | what was found |
| --- | --- |
| invalid-utf8, invalid-json, not-an-object, invalid-csv | what cannot be read |
| missing-text, text-not-a-string, empty-text | no text, or nothing but white space |
| invalid-id | an empty string, or neither a string nor an integer |
| invalid-title | a title that is not a string |
| unreadable-value | a Parquet value that Python cannot hold, as a date after 9999 |
| too-large | a document of over 256 MiB |
| unreadable-file | the rest of a file (or row group) from this position on: truncated, damaged |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import pyarrow as pa

from lexbeam.transforms import read_csv, read_jsonl, read_parquet, read_text
from lexbeam.transforms.block_size import BLOCK_BYTES, BLOCK_ROWS
from lexbeam.transforms.read_rows import BlockBuilder, Record, to_row
from lexbeam.transforms.read_stream import UnreadableFile
from lexbeam.transforms.sources import InputConfig, Source
from lexbeam.transforms.splits import Piece, Split

_FORMATS: dict[str, Callable[[Source, int, int, InputConfig], Iterator[Record]]] = {
    "jsonl": read_jsonl.json_records,
    "lines": read_jsonl.line_records,
    "csv": read_csv.csv_records,
    "tsv": read_csv.csv_records,
    "txt": read_text.text_records,
    "parquet": read_parquet.parquet_records,
}


def read_split(
    split: Split,
    sources: Sequence[Source],
    config: InputConfig,
    block_rows: int = BLOCK_ROWS,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[pa.RecordBatch]:
    """The split's documents as batches of schemas.read_schema(config.keep_columns).

    A batch holds at most block_rows rows, and at most block_bytes bytes of input unless a single
    document has more. None is empty.

    Raises:
        OSError: a file that is not there any more, or a store that does not answer.
    """
    builder = BlockBuilder(config, block_rows, block_bytes)
    for piece in split.pieces:
        source = sources[piece.source]
        for record in _records(piece, source, config):
            row = to_row(record, source.relative, config)
            yield from builder.add(row, source.relative)
    yield from builder.rest()


def count_rows(piece: Piece, source: Source, config: InputConfig, at_most: int) -> int:
    """Rows that the piece gives, counted no further than at_most."""
    return sum(1 for _ in islice(_records(piece, source, config), at_most))


def _records(piece: Piece, source: Source, config: InputConfig) -> Iterator[Record]:
    """The records of a piece; one that says so where the rest cannot be read."""
    records = islice(_all_records(piece, source, config), piece.max_rows)
    return records if piece.rows is None else _chosen(records, piece.rows)


def _chosen(records: Iterator[Record], rows: Sequence[int]) -> Iterator[Record]:
    """The records of these numbers."""
    wanted = iter(rows)
    next_row = next(wanted, None)
    for row, record in enumerate(records):
        if next_row is None:
            return
        if row == next_row:
            yield record
            next_row = next(wanted, None)


def _all_records(piece: Piece, source: Source, config: InputConfig) -> Iterator[Record]:
    try:
        yield from _FORMATS[source.format](source, piece.start, piece.stop, config)
    except UnreadableFile as error:
        yield Record(error.position, 0, {}, "unreadable-file", str(error))
