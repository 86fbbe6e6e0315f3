"""Counting: hand-computed values, a plain Counter as oracle, and the merge laws."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models import counts, schemas

STRINGS = pa.list_(pa.string())

term = st.one_of(st.sampled_from(["a", "b", "词", "词语", ""]), st.text(max_size=4))
document = st.one_of(st.none(), st.lists(term, max_size=8))
corpus = st.lists(st.tuples(document, st.sampled_from(["zh", "en", "other"])), max_size=12)


def count(documents: list[tuple[list[str] | None, str]]) -> pa.Table:
    """Counts of (terms, language) pairs given as Python objects."""
    terms = pa.array([terms for terms, _ in documents], STRINGS)
    languages = pa.array([None if t is None else name for t, name in documents], pa.string())
    return counts.count_terms(terms, languages)


def as_dict(table: pa.Table) -> dict[tuple[str, str], tuple[int, int]]:
    """(term, language) to (document frequency, collection frequency); keys must be unique."""
    columns = [column.to_pylist() for column in table.columns]
    rows = {(row[0], row[1]): (row[2], row[3]) for row in zip(*columns, strict=True)}
    assert len(rows) == table.num_rows
    return rows


def by_counter(
    documents: list[tuple[list[str] | None, str]],
) -> dict[tuple[str, str], tuple[int, int]]:
    """The same counts, an item at a time."""
    document_frequency: Counter[tuple[str, str]] = Counter()
    collection_frequency: Counter[tuple[str, str]] = Counter()
    for terms, language in documents:
        document_frequency.update((t, language) for t in set(terms or []))
        collection_frequency.update((t, language) for t in terms or [])
    return {key: (document_frequency[key], n) for key, n in collection_frequency.items()}


def ipc_bytes(table: pa.Table) -> bytes:
    """The table as Arrow IPC: equal bytes mean equal values, types and chunks."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def hash_oracle(text: str) -> int:
    """The hash in plain integers."""
    data = text.encode()
    value = len(data)
    for byte in data:
        value = (value ^ byte) * 0x9E3779B97F4A7C15 % 2**64
        value ^= value >> 32
    return value


class TestTermLists:
    def test_keeps_terms_only(self) -> None:
        tokens = pa.array([["深度", "的", "学习", "。"], None, [], ["the"], ["x1"]], STRINGS)
        kinds = [
            [schemas.TERM, schemas.STOP, schemas.TERM, schemas.SENTENCE_END],
            None,
            [],
            [schemas.STOP],
            [schemas.TERM],
        ]
        got = counts.term_lists(tokens, pa.array(kinds, pa.list_(pa.int8())))
        assert got.type == STRINGS
        assert got.to_pylist() == [["深度", "学习"], None, [], [], ["x1"]]

    def test_slices(self) -> None:
        tokens = pa.array([["a"], ["b", "c"], None, ["d"]], STRINGS)[1:]
        kinds = pa.array([[9], [9], [1, 0], None, [0]], pa.list_(pa.int8()))[2:]
        assert counts.term_lists(tokens, kinds).to_pylist() == [["c"], None, ["d"]]

    def test_misaligned(self) -> None:
        kinds = pa.array([[0], [0]], pa.list_(pa.int8()))
        with pytest.raises(ValueError, match="same number"):
            counts.term_lists(pa.array([["a", "b"], []], STRINGS), kinds)


class TestCountTerms:
    def test_by_hand(self) -> None:
        table = count([(["b", "a", "b"], "zh"), (None, "zh"), ([], "en"), (["a"], "zh")])
        assert table.schema == schemas.COUNTS
        assert as_dict(table) == {("a", "zh"): (2, 2), ("b", "zh"): (1, 2)}

    def test_languages_are_apart(self) -> None:
        table = count([(["a", "a"], "zh"), (["a"], "en"), (["a", "b"], "en")])
        assert as_dict(table) == {("a", "zh"): (1, 2), ("a", "en"): (2, 2), ("b", "en"): (1, 1)}

    @given(corpus)
    def test_equals_a_counter(self, documents: list[tuple[list[str] | None, str]]) -> None:
        assert as_dict(count(documents)) == by_counter(documents)

    def test_chunked_and_sliced(self) -> None:
        terms = pa.array([["x"], ["a", "b"], ["b"], None, ["b", "c"]], STRINGS)
        languages = pa.array(["zh", "zh", "en", None, "zh"])
        whole = counts.merge_counts([counts.count_terms(terms[1:], languages[1:])])
        chunked = pa.chunked_array([terms[1:2], terms[2:]])
        parts = counts.count_terms(chunked, pa.chunked_array([languages[1:4], languages[4:]]))
        assert as_dict(whole) == {
            ("a", "zh"): (1, 1),
            ("b", "zh"): (2, 2),
            ("b", "en"): (1, 1),
            ("c", "zh"): (1, 1),
        }
        assert counts.merge_counts([parts]).equals(whole)

    @pytest.mark.parametrize("documents", [[], [(None, "zh")], [([], "zh"), (None, "en")]])
    def test_nothing_to_count(self, documents: list[tuple[list[str] | None, str]]) -> None:
        table = count(documents)
        assert table.num_rows == 0
        assert table.schema == schemas.COUNTS

    @pytest.mark.parametrize(("terms", "name"), [(["a"], None), ([None], "zh")])
    def test_nulls(self, terms: list[str | None], name: str | None) -> None:
        with pytest.raises(ValueError, match="must not be null"):
            counts.count_terms(pa.array([terms], STRINGS), pa.array([name], pa.string()))


class TestCountCodes:
    def test_by_hand(self) -> None:
        table = counts.count_codes(
            codes=np.array([2, 0, 2, 2, 0, 0], dtype=np.int32),
            offsets=np.array([0, 3, 3, 4, 6]),
            languages=np.array([1, -1, 1, 0], dtype=np.int8),
            strings=pa.array(["a", "unused", "b"]),
            names=("zh", "en", "other"),
        )
        assert table.schema == schemas.COUNTS
        assert as_dict(table) == {("b", "en"): (2, 3), ("a", "en"): (1, 1), ("a", "zh"): (1, 2)}

    def test_nothing(self) -> None:
        none = np.empty(0, dtype=np.int64)
        table = counts.count_codes(none, np.zeros(1, np.int64), none, pa.array([], pa.string()), ())
        assert table.equals(schemas.COUNTS.empty_table())


class TestCountSums:
    def test_rows_that_are_held(self) -> None:
        sums = counts.CountSums()
        assert sums.compact().equals(schemas.COUNTS.empty_table())
        for _ in range(2):
            sums.add(count([(["b", "a"], "zh"), (["a"], "en")]))
        assert sums.num_rows == 6
        assert as_dict(sums.compact()) == {
            ("b", "zh"): (2, 2),
            ("a", "zh"): (2, 2),
            ("a", "en"): (2, 2),
        }
        assert sums.num_rows == 3
        sums.add(count([(["c"], "en")]))
        assert sums.num_rows == 4
        assert sums.merged()["term"].to_pylist() == ["a", "a", "b", "c"]

    def test_one_table_with_equal_rows(self) -> None:
        sums = counts.CountSums()
        once = count([(["a"], "zh")])
        sums.add(pa.concat_tables([once, once]))
        assert as_dict(sums.compact()) == {("a", "zh"): (2, 2)}

    def test_numbers_that_a_float_cannot_hold(self) -> None:
        large = 2**53 + 1
        table = pa.table([["a"], ["zh"], [large], [large]], schema=schemas.COUNTS)
        one = pa.table([["a"], ["zh"], [1], [2]], schema=schemas.COUNTS)
        merged = counts.merge_counts([table, one])
        assert as_dict(merged) == {("a", "zh"): (large + 1, large + 2)}

    @pytest.mark.parametrize("row", [(None, "zh"), ("a", None)])
    def test_nulls(self, row: tuple[str | None, str | None]) -> None:
        table = pa.table([[row[0]], [row[1]], [1], [1]], schema=schemas.COUNTS)
        with pytest.raises(ValueError, match="must not be null"):
            counts.merge_counts([table])


class TestMergeCounts:
    def test_by_hand_in_byte_order(self) -> None:
        # In UTF-16 the last of these would stand before the one ahead of it.
        one = count([(["\U0001f600", "\uffee", "é"], "zh"), (["z", "z"], "en")])
        two = count([(["z"], "zh"), (["z"], "en")])
        merged = counts.merge_counts([two, one, two])
        assert merged.schema == schemas.COUNTS
        assert list(as_dict(merged).items()) == [
            (("z", "en"), (3, 4)),
            (("z", "zh"), (2, 2)),
            (("é", "zh"), (1, 1)),
            (("\uffee", "zh"), (1, 1)),
            (("\U0001f600", "zh"), (1, 1)),
        ]

    @given(corpus, st.randoms(use_true_random=False), st.sampled_from([1, 4, 2**20]))
    def test_any_split_and_order(
        self,
        documents: list[tuple[list[str] | None, str]],
        rng: random.Random,
        pending_rows: int,
    ) -> None:
        whole = counts.merge_counts([count(documents)])
        assert as_dict(whole) == by_counter(documents)
        shuffled = rng.sample(documents, len(documents))
        cuts = sorted(rng.choices(range(len(documents) + 1), k=3))
        bounds = [0, *cuts, len(documents)]
        tables = [count(shuffled[i:j]) for i, j in zip(bounds[:-1], bounds[1:], strict=True)]
        with mock.patch.object(counts, "_MIN_PENDING_ROWS", pending_rows):
            flat = counts.merge_counts(iter(tables))
            nested = counts.merge_counts([counts.merge_counts(tables[:2]), *tables[2:]])
        assert ipc_bytes(flat) == ipc_bytes(nested) == ipc_bytes(whole)

    def test_without_tables(self) -> None:
        assert counts.merge_counts([]).equals(schemas.COUNTS.empty_table())

    def test_large_strings(self) -> None:
        documents = [(["词语", "a", "bb"], "zh"), (["词语", "ccc"], "en"), (["zz"], "zh")]
        whole = counts.merge_counts([count(documents)])
        with mock.patch.object(counts, "_MAX_STRING_BYTES", 8):
            cut = counts.merge_counts([count(documents[:2]), count(documents[2:])])
        assert cut.schema == schemas.COUNTS
        assert cut["term"].num_chunks > 1
        assert cut.equals(whole)


class TestPartitionCounts:
    @given(corpus, st.integers(1, 9))
    def test_union_is_the_whole(
        self, documents: list[tuple[list[str] | None, str]], num_partitions: int
    ) -> None:
        whole = counts.merge_counts([count(documents)])
        parts = counts.partition_counts(whole, num_partitions)
        assert len(parts) == num_partitions
        assert all(part.schema == schemas.COUNTS for part in parts)
        assert counts.merge_counts(parts).equals(whole)
        terms = [set(part["term"].to_pylist()) for part in parts]
        assert sum(map(len, terms)) == len(set().union(*terms))

    def test_follows_the_hash(self) -> None:
        terms = [f"词{i}" for i in range(500)]
        parts = counts.partition_counts(count([(terms, "zh")]), 7)
        for index, part in enumerate(parts):
            assert part["term"].to_pylist() == [t for t in terms if hash_oracle(t) % 7 == index]
        # Even: the standard deviation of a part is about 8.
        assert max(abs(part.num_rows - 500 / 7) for part in parts) < 40

    def test_parts_own_their_buffers(self) -> None:
        table = count([([f"term{i}" for i in range(5000)], "en")])
        parts = counts.partition_counts(table, 50)
        sizes = [len(pickle.dumps(part)) for part in parts]
        assert max(sizes) < len(pickle.dumps(table)) / 10
        assert pickle.loads(pickle.dumps(parts[3])).equals(parts[3])

    def test_number_of_partitions(self) -> None:
        with pytest.raises(ValueError, match="num_partitions"):
            counts.partition_counts(schemas.COUNTS.empty_table(), 0)


class TestTermHashes:
    @given(st.lists(st.text(max_size=12), max_size=12), st.integers(0, 12))
    def test_equals_plain_integers(self, terms: list[str], begin: int) -> None:
        expected = np.array([hash_oracle(term) for term in terms[begin:]], dtype=np.uint64)
        for kind in (pa.string(), pa.large_string()):
            hashes = counts.term_hashes(pa.array(terms, kind)[begin:])
            assert hashes.dtype == np.uint64
            np.testing.assert_array_equal(hashes, expected)

    def test_never_changes(self) -> None:
        hashes = counts.term_hashes(pa.array(["a", "词语", ""]))
        assert hashes.tolist() == [6110722307022594671, 17952610995818908258, 0]


class TestHelpers:
    @given(st.lists(st.text(max_size=3), max_size=20), st.booleans(), st.sampled_from([1, 1000]))
    def test_encode_sorted(self, strings: list[str], is_sorted: bool, sample: int) -> None:
        if is_sorted:
            strings = sorted(strings, key=str.encode)
        bounds = [(0, 2), (2, 2), (2, 7), (7, None)]
        chunks = [pa.array(strings[begin:end], pa.string()) for begin, end in bounds]
        with mock.patch.object(counts, "_SAMPLE_ROWS", sample):
            distinct, rank = counts.encode_sorted(pa.chunked_array(chunks))
        assert distinct.to_pylist() == sorted(set(strings), key=str.encode)
        assert distinct.take(pa.array(rank)).to_pylist() == strings

    @given(st.lists(st.text(max_size=3), min_size=1, max_size=9), st.data())
    def test_take_strings(self, strings: list[str], data: st.DataObject) -> None:
        places = st.lists(st.integers(0, len(strings) - 1), max_size=20)
        indices = np.array(data.draw(places), dtype=np.int64)
        with mock.patch.object(counts, "_MAX_STRING_BYTES", 12):
            taken = counts.take_strings(pa.array(strings, pa.large_string()), indices)
        assert taken.type == pa.string()
        assert taken.to_pylist() == [strings[i] for i in indices]
        assert all(sum(len(s.encode()) for s in c.to_pylist()) <= 12 for c in taken.chunks)
