"""Duplicate ids: of documents with one id the first in the input's order stays.

Only 128-bit hashes of ids are shuffled, with the numbers of their splits and rows: 24 bytes a
document. Where the first document of an id stands in the input is read from its part once a later
one has been found; documents never move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.metrics import Metrics

from lexbeam.transforms.part_files import PartFolder, open_part, write_part
from lexbeam.transforms.parts import GroupByNumber, ListIndices

DROPPED = pa.schema(
    [("row", pa.int64()), ("first_source", pa.string()), ("first_position", pa.int64())]
)
"""Dropped rows of a split, ascending, and where the document stands that has their id."""

# The elements of the shuffles are bytes of rows of these types.
PLACES = np.dtype([("high", "<u8"), ("low", "<u8"), ("split", "<i4"), ("row", "<i4")])
"""The two halves of an id's hash, and where a document with it stands."""
LATER = np.dtype([("row", "<i4"), ("first_split", "<i4"), ("first_row", "<i4")])
"""A dropped row, and where the first document of its id stands."""

Places = npt.NDArray[Any]
NUM_PARTITIONS = 64
_ROWS_READ = 1 << 16


class ReadIdsDoFn(beam.DoFn):  # type: ignore[misc]
    """A split's id hashes and places, by partition of the hash."""

    def __init__(self, tokens: PartFolder) -> None:
        self._tokens = tokens

    def process(self, split: int) -> Iterator[tuple[int, bytes]]:
        first_row = 0
        with open_part(self._tokens.part(split)) as part:
            for batch in part.iter_batches(_ROWS_READ, columns=["id_hash"]):
                places = places_of(batch["id_hash"], split, first_row)
                first_row += batch.num_rows
                yield from by_partition(places, NUM_PARTITIONS)


def by_partition(places: Places, num_partitions: int) -> Iterator[tuple[int, bytes]]:
    """Records with a field `high` by partition of that, as bytes; partitions are at most 256."""
    partitions = places["high"] % num_partitions
    order = np.argsort(partitions.astype(np.uint8), kind="stable")
    bounds = np.searchsorted(partitions[order], np.arange(num_partitions + 1))
    for partition in np.flatnonzero(np.diff(bounds)).tolist():
        chosen = order[bounds[partition] : bounds[partition + 1]]
        yield partition, places[chosen].tobytes()


def places_of(id_hashes: pa.FixedSizeBinaryArray, split: int, first_row: int) -> Places:
    """Hashes and places of a split's documents.

    Args:
        id_hashes: binary(16), one for each row of the part from `first_row` on; null for a
            rejected document.
        split: the split.
        first_row: the row in the part of the first hash.

    Returns:
        (num_valid,) PLACES, in the order of the rows.

    Raises:
        ValueError: a row's number does not fit into 32 bits.
    """
    if first_row + len(id_hashes) > np.iinfo(np.int32).max:
        raise ValueError(f"split {split} has more documents than 32 bits can number")
    rows = np.flatnonzero(id_hashes.is_valid().to_numpy(zero_copy_only=False))
    places = np.empty(len(rows), dtype=PLACES)
    # No buffer is read where there are no hashes: it may be missing.
    if len(rows):
        halves = np.frombuffer(id_hashes.buffers()[1], dtype="<u8").reshape(-1, 2)
        halves = halves[id_hashes.offset :][rows]
        places["high"], places["low"] = halves[:, 0], halves[:, 1]
    places["split"], places["row"] = split, first_row + rows
    return places


class FindDuplicatesDoFn(beam.DoFn):  # type: ignore[misc]
    """Of each partition the documents whose id stands earlier, by split."""

    def __init__(self) -> None:
        self._duplicates = Metrics.counter("FindDuplicates", "documents-duplicate")

    def process(self, partition: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
        splits, later = later_places(np.frombuffer(b"".join(partition[1]), dtype=PLACES))
        self._duplicates.inc(len(later))
        for split in np.unique(splits).tolist():
            yield split, later[splits == split].tobytes()


def later_places(places: Places) -> tuple[npt.NDArray[np.int32], Places]:
    """Documents whose id has an earlier one, with the place of the first.

    Args:
        places: (n,) PLACES, in any order.

    Returns:
        (num_later,) int32, their splits, and (num_later,) LATER.
    """
    order = np.lexsort([places[name] for name in ("row", "split", "low", "high")])
    places = places[order]
    is_later = np.zeros(len(places), dtype=np.bool_)
    is_later[1:] = (places["high"][1:] == places["high"][:-1]) & (
        places["low"][1:] == places["low"][:-1]
    )
    firsts = np.maximum.accumulate(np.where(is_later, 0, np.arange(len(places))))
    found, first_places = places[is_later], places[firsts[is_later]]
    later = np.empty(len(found), dtype=LATER)
    later["row"] = found["row"]
    later["first_split"], later["first_row"] = first_places["split"], first_places["row"]
    return found["split"], later


class WriteDroppedDoFn(beam.DoFn):  # type: ignore[misc]
    """The dropped rows of each split, none included, as its part."""

    def __init__(self, tokens: PartFolder, dropped: PartFolder) -> None:
        self._tokens = tokens
        self._dropped = dropped

    def process(self, split_rows: tuple[int, Iterable[bytes]]) -> None:
        split, later_rows = split_rows
        later = np.frombuffer(b"".join(later_rows), dtype=LATER)
        tables = [DROPPED.empty_table()]
        for first_split in np.unique(later["first_split"]).tolist():
            chosen = later[later["first_split"] == first_split]
            tables.append(self._with_places(chosen, self._tokens.part(first_split)))
        write_part(self._dropped.part(split), pa.concat_tables(tables).sort_by("row"))

    def _with_places(self, later: Places, tokens_part: str) -> pa.Table:
        """DROPPED of rows whose first documents stand in one part of tokens."""
        first_rows, place = np.unique(later["first_row"], return_inverse=True)
        firsts = rows_of_part(tokens_part, first_rows, ["source", "position"])
        firsts = firsts.take(pa.array(place))
        rows = pa.array(later["row"], pa.int64())
        return pa.table([rows, firsts["source"], firsts["position"]], schema=DROPPED)


def rows_of_part(path: str, rows: npt.NDArray[np.integer], columns: list[str]) -> pa.Table:
    """Some rows of a part, of which only the row groups that hold them are read.

    Args:
        path: the part.
        rows: (n,) row numbers, at least one, ascending and distinct.
        columns: names of the columns.
    """
    with open_part(path) as part:
        sizes = [part.metadata.row_group(i).num_rows for i in range(part.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        tables = [
            part.read_row_group(group, columns=columns).take(
                pa.array(rows[groups == group] - (ends[group] - sizes[group]))
            )
            for group in np.unique(groups).tolist()
        ]
    return pa.concat_tables(tables).select(columns)


class DropDuplicateIds(beam.PTransform):  # type: ignore[misc]
    """Reads the ids of all tokens parts and writes the dropped rows of every split."""

    def __init__(self, tokens: PartFolder, dropped: PartFolder) -> None:
        super().__init__()
        self._tokens = tokens
        self._dropped = dropped

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        by_number = tuple[int, bytes]
        all_splits = pbegin | "AllSplits" >> ListIndices(self._tokens.num_parts)
        found = (
            all_splits
            | "ReadIds" >> beam.ParDo(ReadIdsDoFn(self._tokens)).with_output_types(by_number)
            | "GroupByHash" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.ParDo(FindDuplicatesDoFn()).with_output_types(by_number)
        )
        return (
            (found, all_splits)
            | "GroupBySplit" >> GroupByNumber()
            | "WriteDropped" >> beam.ParDo(WriteDroppedDoFn(self._tokens, self._dropped))
        )
