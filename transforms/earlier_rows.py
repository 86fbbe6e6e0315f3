"""Rows that an earlier run has made, found by the hash of their text."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.transforms.part_files import PartFolder, open_part
from lexbeam.transforms.published import PublishedRun
from lexbeam.transforms.text_index import TextIndex, index_folder

# Row groups of earlier parts that a process holds, decoded.
_GROUPS_HELD = 16

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EarlierRows:
    """Rows of an earlier run's parts, by the hash of their text.

    Attributes:
        run: the earlier run; files of it that were damaged since are not used.
        index: folder of its index.
        parts: the parts that hold the rows.
        columns: their columns to read.
        least_share: share of a row group's rows that must be wanted for reading it to pay.
    """

    run: PublishedRun
    index: str
    parts: PartFolder
    columns: tuple[str, ...]
    least_share: float = 0.0

    def find(self, text_sha256: pa.StringArray) -> tuple[BoolArray, pa.Table]:
        """The rows of some texts.

        Args:
            text_sha256: (n,) hexadecimal hashes; null for no text.

        Returns:
            (n,) whether a text was found, and a table of `columns`, a row for each that was.
        """
        splits, rows = _cached_index(self.run, self.index).find(text_sha256)
        reader = _cached_reader(self.parts, self.columns)
        found = np.isin(splits, [split for split in np.unique(splits) if self._is_sound(split)])
        if self.least_share and found.any():
            found[found] = reader.pays(splits[found], rows[found], self.least_share)
        return found, reader.take(splits[found], rows[found])

    def _is_sound(self, split: int) -> bool:
        return split >= 0 and self.run.is_sound(self.parts.part(int(split)))


@lru_cache(maxsize=2)
def _cached_index(run: PublishedRun, path: str) -> TextIndex:
    return TextIndex(index_folder(path), run)


@lru_cache(maxsize=4)
def _cached_reader(parts: PartFolder, columns: tuple[str, ...]) -> RowReader:
    return RowReader(parts, columns)


class RowReader:
    """Reads rows of parts in any order; holds the row groups that it read last."""

    def __init__(self, parts: PartFolder, columns: tuple[str, ...]) -> None:
        self._parts = parts
        self._columns = list(columns)
        self._ends: dict[int, npt.NDArray[np.int64]] = {}
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def pays(
        self, splits: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], least: float
    ) -> BoolArray:
        """(n,) whether a row stands in a row group of which at least such a share is wanted."""
        keys, inverse, counts = np.unique(
            self._group_keys(splits, rows), return_inverse=True, return_counts=True
        )
        sizes = []
        for key in keys.tolist():
            split, group = divmod(key, 1 << 32)
            ends = self._ends_of(split)
            sizes.append(ends[group] - (ends[group - 1] if group else 0))
        return np.asarray((counts >= least * np.array(sizes))[inverse])

    def take(self, splits: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> pa.Table:
        """A table of the columns, row by row."""
        keys = self._group_keys(splits, rows)
        tables, order = [self._empty()], []
        for key in np.unique(keys).tolist():
            chosen = np.flatnonzero(keys == key)
            split, group = divmod(key, 1 << 32)
            first = self._ends_of(split)[group - 1] if group else 0
            tables.append(self._row_group(split, group).take(pa.array(rows[chosen] - first)))
            order.append(chosen)
        if not order:
            return tables[0]
        places = np.empty(len(rows), np.int64)
        places[np.concatenate(order)] = np.arange(len(rows))
        return pa.concat_tables(tables).take(pa.array(places))

    def _group_keys(
        self, splits: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The row group of each row, with its split in the upper half."""
        groups = np.empty(len(rows), np.int64)
        for split in np.unique(splits).tolist():
            chosen = splits == split
            groups[chosen] = np.searchsorted(self._ends_of(split), rows[chosen], side="right")
        return (splits << 32) + groups

    def _ends_of(self, split: int) -> npt.NDArray[np.int64]:
        """The row behind the last one of each row group."""
        with self._lock:
            if split not in self._ends:
                with open_part(self._parts.part(split)) as part:
                    groups = range(part.num_row_groups)
                    sizes = [part.metadata.row_group(group).num_rows for group in groups]
                self._ends[split] = np.cumsum(np.array(sizes, np.int64))
            return self._ends[split]

    def _row_group(self, split: int, group: int) -> pa.Table:
        key = (split, group)
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
                return self._groups[key]
        with open_part(self._parts.part(split)) as part:
            table = part.read_row_group(group, columns=self._columns).select(self._columns)
        with self._lock:
            self._groups[key] = table
            while len(self._groups) > _GROUPS_HELD:
                self._groups.popitem(last=False)
        return table

    def _empty(self) -> pa.Table:
        """No rows, of the right types."""
        with open_part(self._parts.part(0)) as part:
            schema = part.schema_arrow
        return pa.schema([schema.field(name) for name in self._columns]).empty_table()


def fill_in(computed: pa.Array, found: BoolArray, earlier: pa.Array) -> pa.Array:
    """The rows of `computed`, but those of `earlier`, in order, where they were found."""
    places = np.arange(len(found))
    places[found] = len(found) + np.arange(int(found.sum()))
    chunks = [computed, *_chunks(earlier.cast(computed.type))]
    return pa.concat_arrays(chunks).take(pa.array(places))


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def without(texts: pa.StringArray, found: BoolArray) -> pa.StringArray:
    """The texts, null where they were found."""
    return pc.if_else(pa.array(~found), texts, pa.scalar(None, texts.type))
