"""Sequences on disk, mapped into memory, and the batches that each step takes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.pretraining.masking import generator

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
ByteArray = npt.NDArray[np.uint8]

_ORDER = 1  # stream of random numbers: the order of an epoch


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


class BatchPlan:
    """Which sequences each step takes: a new random order each epoch, cut into even steps.

    A step is the same whatever `max_batch_tokens` and the number of processes are.

    Args:
        lengths: (n,) tokens of each sequence.
        batch_tokens: tokens a step, about; no sequence is longer, and all together are no fewer.
        seed: of the orders.

    Attributes:
        steps_per_epoch: steps that take every sequence once.

    Raises:
        ValueError: the sequences do not fill a step, or one is longer than a step.
    """

    def __init__(self, lengths: Int64Array, batch_tokens: int, seed: int) -> None:
        total = int(lengths.sum())
        if total < batch_tokens or int(lengths.max()) > batch_tokens:
            raise ValueError(f"steps of {batch_tokens} tokens from {total} tokens")
        self._lengths = lengths
        self._seed = seed
        self._epoch = -1
        self.steps_per_epoch = total // batch_tokens
        self._order = self._bounds = np.empty(0, np.int64)

    def sequences(self, step: int) -> Int64Array:
        """Numbers of the sequences of a step, from 1; never none."""
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = generator(self._seed, _ORDER, epoch).permutation(len(self._lengths))
            ends = np.cumsum(self._lengths[self._order])
            marks = ends[-1] * np.arange(1, self.steps_per_epoch + 1) / self.steps_per_epoch
            self._bounds = np.concatenate([[0], np.searchsorted(ends, marks, side="right")])
            self._bounds[-1] = len(ends)
            self._epoch = epoch
        return self._order[self._bounds[index] : self._bounds[index + 1]]


def cut_by_tokens(lengths: Int64Array, most: int) -> list[int]:
    """Bounds of consecutive groups of at most so many tokens, and of at least one sequence."""
    ends = np.cumsum(lengths)
    bounds = [0]
    while bounds[-1] < len(lengths):
        before = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
        last = int(np.searchsorted(ends, before + most, side="right"))
        bounds.append(max(last, bounds[-1] + 1))
    return bounds
