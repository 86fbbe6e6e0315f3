import pickle

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.transforms import blocks

SCHEMA = pa.schema([("text", pa.string()), ("ids", pa.list_(pa.int32()))])


def batch_of(texts: list[str | None]) -> pa.RecordBatch:
    ids = [None if text is None else [len(text)] for text in texts]
    return pa.RecordBatch.from_pydict({"text": texts, "ids": ids}, schema=SCHEMA)


@given(st.lists(st.none() | st.text(), max_size=20), st.integers(0, 5), st.integers(0, 5))
def test_the_coder_keeps_rows_and_marks_of_any_slice(texts, start, length):
    block = blocks.of_split(batch_of(texts), 7).slice(min(start, len(texts)), length)
    coder = blocks.RecordBatchCoder()
    decoded = coder.decode(coder.encode(block))
    assert decoded.equals(block)
    assert blocks.split_of(decoded) == 7
    assert not blocks.is_last(decoded)


def test_a_slice_is_encoded_without_its_parents_rows():
    whole = batch_of(["word " * 100] * 10_000)
    coder = blocks.RecordBatchCoder()
    assert len(coder.encode(whole.slice(0, 10))) < len(pickle.dumps(whole)) / 100


def test_sizes_are_estimated_without_encoding(monkeypatch):
    batch = pa.RecordBatch.from_pydict({"text": ["abc" * 100] * 50, "n": list(range(50))})
    coder = blocks.RecordBatchCoder()
    encoded = len(coder.encode(batch))
    monkeypatch.setattr(blocks.RecordBatchCoder, "encode", None)
    implementation = coder.get_impl()
    size, observables = implementation.get_estimated_size_and_observables(batch)
    assert 0.5 * encoded < size < 1.5 * encoded
    assert observables == []


def test_the_last_block_is_empty_and_carries_statistics():
    last = blocks.last_block(SCHEMA, 3, {"tokens": 12})
    assert last.num_rows == 0
    assert blocks.is_last(last)
    assert blocks.split_of(last) == 3
    assert blocks.statistics_of(last) == {"tokens": 12}
    assert blocks.statistics_of(blocks.last_block(SCHEMA, 3)) == {}


def test_mark_split_ends_with_the_last_block():
    marked = list(blocks.mark_split([batch_of(["a"]), batch_of(["b"])], SCHEMA, 2))
    assert [block.num_rows for block in marked] == [1, 1, 0]
    assert [blocks.is_last(block) for block in marked] == [False, False, True]
    assert {blocks.split_of(block) for block in marked} == {2}


def test_beam_uses_the_coder_for_record_batches():
    import apache_beam as beam

    found = beam.coders.registry.get_coder(pa.RecordBatch)
    assert isinstance(found, blocks.RecordBatchCoder)
