"""Bags of words in compressed sparse row form, as the compiled LDA loops take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.counts import list_lengths, row_offsets

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bow:
    """Bags of words of n documents; a null row is a bag without terms here.

    Attributes:
        indptr: (n + 1,) int64, where each document's entries begin and end.
        term_ids: (nnz,) int32, ascending within a document.
        counts: (nnz,) int32, occurrences, at least 1.
    """

    indptr: Int64Array
    term_ids: Int32Array
    counts: Int32Array

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch | pa.Table) -> Bow:
        """The bags of `schemas.BOW` columns; raises ValueError if they are not aligned."""
        lists, counts = batch.column("term_ids"), batch.column("counts")
        if isinstance(lists, pa.ChunkedArray):
            lists, counts = lists.combine_chunks(), counts.combine_chunks()
        lengths = list_lengths(lists)
        if not np.array_equal(lengths, list_lengths(counts)):
            raise ValueError("term_ids and counts must have the same number of items in every row")
        return cls(
            indptr=row_offsets(lengths),
            term_ids=np.asarray(lists.flatten(), dtype=np.int32),
            counts=np.asarray(counts.flatten(), dtype=np.int32),
        )

    @classmethod
    def concatenate(cls, blocks: Sequence[Bow]) -> Bow:
        """All documents of `blocks`, one after the other."""
        if not blocks:
            return cls(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))
        return cls(
            indptr=row_offsets(np.concatenate([np.diff(block.indptr) for block in blocks])),
            term_ids=np.concatenate([block.term_ids for block in blocks]),
            counts=np.concatenate([block.counts for block in blocks]),
        )

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def is_empty(self) -> npt.NDArray[np.bool_]:
        """(n,) bool, documents without terms."""
        return np.asarray(np.diff(self.indptr) == 0)

    @property
    def num_documents(self) -> int:
        """Documents with at least one term."""
        return int(np.count_nonzero(~self.is_empty))

    @property
    def num_tokens(self) -> int:
        """Sum of all counts."""
        return int(self.counts.sum(dtype=np.int64))

    def check_terms(self, num_terms: int) -> None:
        """Raise ValueError unless all ids are in [0, num_terms): compiled code trusts them."""
        if self.term_ids.size and not (
            self.term_ids.min() >= 0 and self.term_ids.max() < num_terms
        ):
            raise ValueError(f"a term id of the bag of words is outside [0, {num_terms})")

    def chunks(self, num_chunks: int) -> list[tuple[int, int]]:
        """At most `num_chunks` ranges of documents with about equally many entries each."""
        ends = np.linspace(0, self.indptr[-1], num_chunks + 1)
        cuts = np.unique(np.searchsorted(self.indptr, ends))
        cuts = np.unique(np.concatenate([[0], cuts, [len(self)]])).tolist()
        return list(zip(cuts[:-1], cuts[1:], strict=True))


BowSource = Bow | Callable[[], Iterable[pa.RecordBatch | Bow]]
"""A corpus: held in memory, or a function that gives its blocks anew for every pass."""


def iterate(source: BowSource) -> Iterable[Bow]:
    """The blocks of a corpus."""
    if isinstance(source, Bow):
        yield source
        return
    for block in source():
        yield block if isinstance(block, Bow) else Bow.from_batch(block)
