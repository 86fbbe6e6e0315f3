"""Duplicate ids: of documents with one id the first in the input's order stays.

Only 128-bit hashes of ids are shuffled, with where their documents stand; documents never move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from lexbeam.transforms.part_files import PartFolder, read_part, write_part
from lexbeam.transforms.parts import ListIndices

DROPPED = pa.schema(
    [("row", pa.int64()), ("first_source", pa.string()), ("first_position", pa.int64())]
)
"""Dropped rows of a split, ascending, and where the document stands that has their id."""

_PLACES = pa.schema(
    [
        ("id_hash", pa.binary(16)),
        ("split", pa.int32()),
        ("row", pa.int64()),
        ("source", pa.string()),
        ("position", pa.int64()),
    ]
)
_NUM_PARTITIONS = 64


class ReadIdsDoFn(beam.DoFn):  # type: ignore[misc]
    """A split's id hashes and places, by partition of the hash."""

    def __init__(self, tokens: PartFolder) -> None:
        self._tokens = tokens

    def process(self, split: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        columns = ["id_hash", "source", "position"]
        table = read_part(self._tokens.part(split), columns)
        rows = pa.array(np.arange(table.num_rows, dtype=np.int64))
        splits = pa.array(np.full(table.num_rows, split, dtype=np.int32))
        hashes, sources, positions = (table[name] for name in columns)
        places = pa.table([hashes, splits, rows, sources, positions], schema=_PLACES)
        places = places.filter(pc.is_valid(places["id_hash"]))
        first_bytes = np.array([value[0] for value in places["id_hash"].to_pylist()], np.uint8)
        for partition in np.unique(first_bytes % _NUM_PARTITIONS).tolist():
            chosen = places.filter(pa.array(first_bytes % _NUM_PARTITIONS == partition))
            yield partition, chosen.combine_chunks().to_batches()[0]


class FindDuplicatesDoFn(beam.DoFn):  # type: ignore[misc]
    """Of each partition the documents whose id stands earlier, by split."""

    def __init__(self) -> None:
        self._duplicates = Metrics.counter("FindDuplicates", "documents-duplicate")

    def process(
        self, partition: tuple[int, Iterable[pa.RecordBatch]]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        places = pa.Table.from_batches(list(partition[1]), _PLACES)
        keys = [("id_hash", "ascending"), ("split", "ascending"), ("row", "ascending")]
        places = places.sort_by(keys).combine_chunks()
        later = later_places(places)
        self._duplicates.inc(later.num_rows)
        splits = later["split"].to_numpy()
        for split in np.unique(splits).tolist():
            chosen = later.filter(pa.array(splits == split)).select(DROPPED.names)
            yield split, chosen.combine_chunks().to_batches()[0]


def later_places(places: pa.Table) -> pa.Table:
    """Rows whose id stands in an earlier row, with the place of the first one.

    places: sorted by id, split and row. Returns a table of DROPPED's columns and `split`.
    """
    hashes = places["id_hash"]
    is_first = np.ones(places.num_rows, bool)
    if places.num_rows > 1:
        is_first[1:] = pc.not_equal(hashes[1:], hashes[:-1]).to_numpy()
    firsts = np.maximum.accumulate(np.where(is_first, np.arange(places.num_rows), 0))
    is_later = pa.array(~is_first)
    first_places = places.take(pa.array(firsts)).filter(is_later)
    later = places.filter(is_later)
    return pa.table(
        {
            "split": later["split"],
            "row": later["row"],
            "first_source": first_places["source"],
            "first_position": first_places["position"],
        }
    )


class WriteDroppedDoFn(beam.DoFn):  # type: ignore[misc]
    """The dropped rows of each split, none included, as its part."""

    def __init__(self, dropped: PartFolder) -> None:
        self._dropped = dropped

    def process(self, split_rows: tuple[int, Iterable[pa.RecordBatch]]) -> None:
        split, batches = split_rows
        table = pa.Table.from_batches(list(batches), DROPPED).sort_by("row")
        write_part(self._dropped.part(split), table)


class DropDuplicateIds(beam.PTransform):  # type: ignore[misc]
    """Reads the ids of all tokens parts and writes the dropped rows of every split."""

    def __init__(self, tokens: PartFolder, dropped: PartFolder) -> None:
        super().__init__()
        self._tokens = tokens
        self._dropped = dropped

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        by_partition = tuple[int, pa.RecordBatch]
        all_splits = pbegin | "AllSplits" >> ListIndices(self._tokens.num_parts)
        empty = all_splits | "NoneDropped" >> beam.Map(_none_dropped).with_output_types(
            by_partition
        )
        found = (
            all_splits
            | "ReadIds" >> beam.ParDo(ReadIdsDoFn(self._tokens)).with_output_types(by_partition)
            | "GroupByHash" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.ParDo(FindDuplicatesDoFn()).with_output_types(by_partition)
        )
        return (
            (empty, found)
            | "Flatten" >> beam.Flatten()
            | "GroupBySplit" >> beam.GroupByKey()
            | "WriteDropped" >> beam.ParDo(WriteDroppedDoFn(self._dropped))
        )


def _none_dropped(split: int) -> tuple[int, pa.RecordBatch]:
    return split, pa.RecordBatch.from_pylist([], schema=DROPPED)
