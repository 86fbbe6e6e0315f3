"""Sequences of several tables are read by their numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lexbeam.models.pretraining.store import SequenceStore
from tests.models.pretraining.helpers import counting


def test_sequences_of_several_tables_are_read_by_number(tmp_path):
    tables = [counting(5, 1), counting(0, 2), counting(3, 3)]
    rows = [row for table in tables for row in table.to_pylist()]
    # As from a file, in several batches.
    tables[0] = pa.concat_tables([tables[0].slice(0, 2), tables[0].slice(2)])
    store = SequenceStore(tables)
    assert store.lengths.tolist() == [len(row["input_ids"]) for row in rows]
    ids, starts = store.read(np.array([7, 0, 4]))
    assert ids.tolist() == [token for i in (7, 0, 4) for token in rows[i]["input_ids"]]
    assert starts.tolist() == [mark for i in (7, 0, 4) for mark in rows[i]["word_starts"]]


def test_a_store_may_be_empty():
    assert SequenceStore([counting(0, 1)]).num_tokens == 0
