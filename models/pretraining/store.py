"""Sequences on disk, mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
ByteArray = npt.NDArray[np.uint8]


class SequenceStore:
    """Sequences of several tables, by their numbers; nothing is copied before it is asked for.

    Args:
        tables: with `input_ids` and `word_starts`, as `sequences.SCHEMA` says.

    Attributes:
        lengths: (n,) int64 tokens of each sequence.
    """

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        self._tables = [_Mapped.of(table) for table in tables if table.num_rows]
        self.lengths = np.concatenate(
            [np.diff(table.offsets) for table in self._tables] or [np.empty(0, np.int64)]
        )
        self._firsts = np.cumsum([0, *(len(table.offsets) - 1 for table in self._tables)])

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return int(self.lengths.sum())

    def read(self, numbers: Int64Array) -> tuple[Int32Array, ByteArray]:
        """Tokens and word starts of sequences, end to end."""
        ids, starts = [], []
        owners = np.searchsorted(self._firsts, numbers, side="right") - 1
        for number, owner in zip(numbers.tolist(), owners.tolist(), strict=True):
            table = self._tables[owner]
            row = number - int(self._firsts[owner])
            span = slice(int(table.offsets[row]), int(table.offsets[row + 1]))
            ids.append(table.ids[span])
            starts.append(table.word_starts[span])
        return np.concatenate(ids), np.concatenate(starts)


@dataclass(frozen=True)
class _Mapped:
    """A table's values as arrays that share its memory."""

    ids: Int32Array
    word_starts: ByteArray
    offsets: npt.NDArray[np.int32]

    @classmethod
    def of(cls, table: pa.Table) -> _Mapped:
        ids = table["input_ids"].combine_chunks()
        starts = table["word_starts"].combine_chunks()
        return cls(ids.values.to_numpy(), starts.values.to_numpy(), ids.offsets.to_numpy())
