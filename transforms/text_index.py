"""An index from the SHA-256 of a text to the part and row that it stands in.

Built once a run from the tokens parts: only the first half of each hash is shuffled, with the
numbers of its split and row, 24 bytes a document. The index is NUM_PARTITIONS files, sorted by
hash, that a later run maps into memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.transforms.duplicates import PLACES, Places, by_partition, places_of
from lexbeam.transforms.part_files import PartFolder, open_part, read_arrow, read_part, write_arrow
from lexbeam.transforms.parts import GroupByNumber, ListIndices
from lexbeam.transforms.published import PublishedRun

NUM_PARTITIONS = 16
_ROWS_READ = 1 << 16
_HEX_DIGITS = 64
_SCHEMA = pa.schema(
    [("high", pa.uint64()), ("low", pa.uint64()), ("split", pa.int32()), ("row", pa.int32())]
)

IntArray = npt.NDArray[np.int64]


def index_folder(path: str) -> PartFolder:
    """The files of an index."""
    return PartFolder(path, NUM_PARTITIONS, "arrow")


def half_hashes(text_sha256: pa.StringArray) -> pa.FixedSizeBinaryArray:
    """The first 16 bytes of hexadecimal SHA-256 hashes, null where they are."""
    valid = text_sha256.is_valid().to_numpy(zero_copy_only=False)
    halves = np.zeros((len(text_sha256), 16), np.uint8)
    present = text_sha256.drop_null()
    if len(present):
        digits = np.frombuffer("".join(present.to_pylist()).encode(), np.uint8)
        digits = digits.reshape(-1, _HEX_DIGITS)[:, :32]
        # '0' to '9' are 48 to 57, 'a' to 'f' 97 to 102.
        nibbles = np.where(digits >= 97, digits - 87, digits - 48)
        halves[valid] = nibbles[:, 0::2] << 4 | nibbles[:, 1::2]
    buffers = [pa.array(valid).buffers()[1], pa.py_buffer(halves.tobytes())]
    return pa.Array.from_buffers(pa.binary(16), len(valid), buffers)


class ReadTextsDoFn(beam.DoFn):  # type: ignore[misc]
    """A split's text hashes and places, by partition of the hash; neither rejected nor dropped."""

    def __init__(self, tokens: PartFolder, dropped: PartFolder) -> None:
        self._tokens = tokens
        self._dropped = dropped

    def process(self, split: int) -> Iterator[tuple[int, bytes]]:
        dropped = read_part(self._dropped.part(split), ["row"])["row"].to_numpy()
        first_row = 0
        with open_part(self._tokens.part(split)) as part:
            for batch in part.iter_batches(_ROWS_READ, columns=["text_sha256"]):
                places = places_of(half_hashes(batch["text_sha256"]), split, first_row)
                first_row += batch.num_rows
                kept = places[~np.isin(places["row"], dropped)]
                yield from by_partition(kept, NUM_PARTITIONS)


class WriteIndexDoFn(beam.DoFn):  # type: ignore[misc]
    """Sorts a partition by hash and writes it; of equal texts the first one stays."""

    def __init__(self, folder: PartFolder) -> None:
        self._folder = folder

    def process(self, element: tuple[int, Iterable[bytes]]) -> None:
        partition, pieces = element
        places = np.frombuffer(b"".join(pieces), dtype=PLACES)
        places = places[np.lexsort([places[n] for n in ("row", "split", "low", "high")])]
        is_first = np.ones(len(places), np.bool_)
        is_first[1:] = (places["high"][1:] != places["high"][:-1]) | (
            places["low"][1:] != places["low"][:-1]
        )
        places = places[is_first]
        columns = [pa.array(np.ascontiguousarray(places[name])) for name in _SCHEMA.names]
        write_arrow(self._folder.part(partition), pa.table(columns, schema=_SCHEMA))


class IndexTexts(beam.PTransform):  # type: ignore[misc]
    """Writes the index of all tokens parts."""

    def __init__(self, tokens: PartFolder, dropped: PartFolder, index: PartFolder) -> None:
        super().__init__()
        self._tokens = tokens
        self._dropped = dropped
        self._index = index

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection:
        read = beam.ParDo(ReadTextsDoFn(self._tokens, self._dropped))
        partitions = pbegin | "AllPartitions" >> ListIndices(NUM_PARTITIONS)
        found = (
            pbegin
            | "AllSplits" >> ListIndices(self._tokens.num_parts)
            | "ReadTexts" >> read.with_output_types(tuple[int, bytes])
        )
        return (
            (found, partitions)
            | "GroupByHash" >> GroupByNumber()
            | "WriteIndex" >> beam.ParDo(WriteIndexDoFn(self._index))
        )


class TextIndex:
    """The index of a run, mapped as it is asked for; safe to call from several threads.

    A partition that was damaged since it was published has no texts.
    """

    def __init__(self, folder: PartFolder, run: PublishedRun) -> None:
        self._folder = folder
        self._run = run

    def find(self, text_sha256: pa.StringArray) -> tuple[IntArray, IntArray]:
        """Where each text stands.

        Args:
            text_sha256: (n,) hexadecimal hashes; null for no text.

        Returns:
            (n,) split and (n,) row, both -1 where the text is not in the index.
        """
        splits = np.full(len(text_sha256), -1, np.int64)
        rows = splits.copy()
        wanted = places_of(half_hashes(text_sha256), 0, 0)
        partitions = wanted["high"] % NUM_PARTITIONS
        for partition in np.unique(partitions).tolist():
            chosen = wanted[partitions == partition]
            if not self._run.is_sound(self._folder.part(partition)):
                continue
            found, split, row = _find(_mapped(self._folder.part(partition)), chosen)
            splits[chosen["row"][found]], rows[chosen["row"][found]] = split, row
        return splits, rows


def _find(
    columns: dict[str, npt.NDArray[np.generic]], wanted: Places
) -> tuple[npt.NDArray[np.bool_], IntArray, IntArray]:
    """Which hashes are there, and the splits and rows of those."""
    size = len(columns["high"])
    if not size:
        nothing = np.empty(0, np.int64)
        return np.zeros(len(wanted), np.bool_), nothing, nothing
    at = np.minimum(np.searchsorted(columns["high"], wanted["high"]), size - 1)
    found = (columns["high"][at] == wanted["high"]) & (columns["low"][at] == wanted["low"])
    return found, columns["split"][at[found]], columns["row"][at[found]]


@lru_cache(maxsize=2 * NUM_PARTITIONS)
def _mapped(path: str) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of a partition; pages of its file where that is local."""
    table = read_arrow(path)
    return {name: table[name].to_numpy() for name in _SCHEMA.names}
