"""Pruning, the vocabulary and the bag of words: hand-computed values, scikit-learn, laws."""

from __future__ import annotations

import io
import json
import math
import pickle
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from lexbeam.models import counts, schemas, vocabulary
from lexbeam.models.config import CountConfig
from lexbeam.models.vocabulary import Vocabulary

STRINGS = pa.list_(pa.string())

letter = st.sampled_from(["a", "b", "c", "d", "词", "词语", "\uffee", "\U0001f600"])
corpus = st.lists(st.lists(letter, max_size=8), max_size=12)
limit = st.one_of(
    st.integers(1, 5), st.floats(0.0, 1.0, exclude_min=True), st.sampled_from([0.5, 0.25])
)


def count(documents: list[list[str]], language: str = "zh") -> pa.Table:
    """Merged counts of documents in one language."""
    names = pa.array([language] * len(documents), pa.string())
    return counts.merge_counts([counts.count_terms(pa.array(documents, STRINGS), names)])


def table_of(rows: list[tuple[str, str, int, int]]) -> pa.Table:
    """Counts from rows of term, language, document and collection frequency."""
    return pa.Table.from_pylist(
        [dict(zip(schemas.COUNTS.names, row, strict=True)) for row in rows], schema=schemas.COUNTS
    )


def terms_after_pruning(
    rows: list[tuple[str, str, int, int]], totals: Mapping[str, int], **limits: Any
) -> list[str]:
    """Terms that `prune_counts` keeps."""
    config = CountConfig(**{"min_df": 1, "max_df": 1.0, **limits})
    pruned: list[str] = vocabulary.prune_counts(table_of(rows), totals, config)["term"].to_pylist()
    return pruned


def make_vocabulary(documents: list[list[str]], **limits: Any) -> Vocabulary:
    """Vocabulary of Chinese documents."""
    config = CountConfig(**{"min_df": 1, "max_df": 1.0, **limits})
    totals = {"zh": len(documents)}
    return vocabulary.build_vocabulary(
        [vocabulary.prune_counts(count(documents), totals, config)], totals, config
    )


def saved(fitted: Vocabulary) -> bytes:
    """The bytes of the file."""
    buffer = io.BytesIO()
    fitted.save(buffer)
    return buffer.getvalue()


class TestPruneCounts:
    def test_sums_languages(self) -> None:
        rows = [("b", "zh", 1, 5), ("a", "en", 1, 2), ("b", "en", 2, 3), ("c", "zh", 1, 1)]
        config = CountConfig(min_df=2, max_df=1.0)
        pruned = vocabulary.prune_counts(table_of(rows), {"zh": 4, "en": 4}, config)
        assert pruned.schema == vocabulary.PRUNED
        assert pruned.to_pylist() == [
            {"term": "b", "document_frequency": 3, "collection_frequency": 8}
        ]

    def test_fractions_and_counts(self) -> None:
        rows = [(name, "en", df, 9) for name, df in [("a", 1), ("b", 2), ("c", 3), ("d", 4)]]
        totals = {"en": 4}
        assert terms_after_pruning(rows, totals, min_df=2) == ["b", "c", "d"]
        assert terms_after_pruning(rows, totals, min_df=0.5) == ["b", "c", "d"]
        assert terms_after_pruning(rows, totals, min_df=0.51) == ["c", "d"]
        assert terms_after_pruning(rows, totals, min_df=1.0) == ["d"]
        assert terms_after_pruning(rows, totals, max_df=1) == ["a"]
        assert terms_after_pruning(rows, totals, max_df=1.0) == ["a", "b", "c", "d"]
        assert terms_after_pruning(rows, totals, max_df=0.75) == ["a", "b", "c"]
        assert terms_after_pruning(rows, totals, max_df=0.74) == ["a", "b"]
        assert terms_after_pruning(rows, totals, min_df=3, max_df=2) == []

    def test_min_df_fraction_is_of_all_languages(self) -> None:
        rows = [("a", "en", 5, 5), ("b", "en", 4, 4), ("b", "zh", 1, 1)]
        assert terms_after_pruning(rows, {"en": 5, "zh": 5}, min_df=0.5) == ["a", "b"]
        assert terms_after_pruning(rows, {"en": 5, "zh": 7}, min_df=0.5) == []

    def test_max_df_in_the_language_of_highest_frequency(self) -> None:
        # 6 of 10 English documents, though 8 of 100 in all.
        rows = [("en-word", "en", 6, 6), ("en-word", "zh", 2, 2)]
        assert terms_after_pruning(rows, {"en": 10, "zh": 90}, max_df=0.5) == []
        # In every English document, but most frequent in Chinese.
        rows = [("zh-word", "en", 10, 10), ("zh-word", "zh", 20, 20)]
        assert terms_after_pruning(rows, {"en": 10, "zh": 90}, max_df=0.5) == ["zh-word"]
        assert terms_after_pruning(rows, {"en": 10, "zh": 90}, max_df=19) == []
        assert terms_after_pruning(rows, {"en": 10, "zh": 90}, max_df=20) == ["zh-word"]

    def test_max_df_tie_goes_to_the_first_language(self) -> None:
        rows = [("w", "zh", 6, 6), ("w", "en", 6, 6)]
        assert terms_after_pruning(rows, {"en": 10, "zh": 90}, max_df=0.5) == []
        assert terms_after_pruning(rows, {"en": 90, "zh": 10}, max_df=0.5) == ["w"]

    def test_rows_that_are_not_merged_yet(self) -> None:
        rows = [("w", "zh", 3, 3), ("w", "en", 4, 4), ("w", "zh", 3, 3)]
        assert terms_after_pruning(rows, {"en": 8, "zh": 8}, min_df=10, max_df=6) == ["w"]
        assert terms_after_pruning(rows, {"en": 8, "zh": 8}, max_df=5) == []

    def test_max_terms(self) -> None:
        rows = [("a", "en", 1, 3), ("b", "en", 1, 7), ("c", "en", 1, 3), ("d", "en", 1, 9)]
        assert terms_after_pruning(rows, {"en": 3}, max_terms=3) == ["a", "b", "d"]

    def test_unknown_language(self) -> None:
        with pytest.raises(ValueError, match="'other'"):
            terms_after_pruning([("a", "other", 1, 1)], {"en": 3})

    def test_empty(self) -> None:
        assert terms_after_pruning([], {"en": 3}) == []


class TestBuildVocabulary:
    def test_by_hand(self) -> None:
        fitted = make_vocabulary([["b", "a"], ["b", "b"], []])
        assert fitted.terms.to_pylist() == ["a", "b"]
        assert fitted.document_frequency.tolist() == [1, 2]
        assert fitted.collection_frequency.tolist() == [1, 3]
        assert fitted.idf == pytest.approx([math.log(4 / 2) + 1, math.log(4 / 3) + 1], abs=1e-15)
        assert (fitted.num_documents, fitted.num_documents_by_language) == (3, {"zh": 3})
        assert len(fitted) == 2

    def test_types(self) -> None:
        fitted = make_vocabulary([["a"]])
        assert fitted.terms.type == pa.string()
        assert fitted.document_frequency.dtype == fitted.collection_frequency.dtype == np.int64
        assert fitted.idf.dtype == np.float64

    def test_max_terms_ties_over_partitions(self) -> None:
        documents = [["d", "d", "c", "b", "a", "a", "e", "e", "e"]]
        config = CountConfig(min_df=1, max_df=1.0, max_terms=4)
        for num_partitions in (1, 2, 3):
            parts = counts.partition_counts(count(documents), num_partitions)
            pruned = [vocabulary.prune_counts(part, {"zh": 1}, config) for part in parts]
            fitted = vocabulary.build_vocabulary(pruned, {"zh": 1}, config)
            assert fitted.terms.to_pylist() == ["a", "b", "d", "e"]

    @given(corpus, limit, limit, st.integers(1, 9))
    def test_equals_sklearn(
        self, documents: list[list[str]], min_df: float, max_df: float, max_terms: int
    ) -> None:
        fitted = make_vocabulary(documents, min_df=min_df, max_df=max_df)
        vectorizer = CountVectorizer(analyzer=list, min_df=min_df, max_df=max_df)
        try:
            expected = sorted(vectorizer.fit(documents).vocabulary_, key=str.encode)
        except ValueError:  # scikit-learn's way to say that nothing is left
            expected = []
        assert fitted.terms.to_pylist() == expected
        totals = Counter(term for terms in documents for term in terms)
        best = sorted(expected, key=lambda t: (-totals[t], t.encode()))[:max_terms]
        cut = make_vocabulary(documents, min_df=min_df, max_df=max_df, max_terms=max_terms)
        assert cut.terms.to_pylist() == sorted(best, key=str.encode)

    @given(corpus, st.integers(1, 5), st.integers(1, 6), st.randoms(use_true_random=False))
    def test_any_partition(
        self, documents: list[list[str]], num_partitions: int, max_terms: int, rng: random.Random
    ) -> None:
        config = CountConfig(min_df=2, max_df=0.9, max_terms=max_terms)
        totals = {"zh": len(documents)}
        whole = make_vocabulary(documents, min_df=2, max_df=0.9, max_terms=max_terms)
        parts = counts.partition_counts(count(documents), num_partitions)
        rng.shuffle(parts)
        pruned = (vocabulary.prune_counts(part, totals, config) for part in parts)
        fitted = vocabulary.build_vocabulary(pruned, totals, config)
        assert saved(fitted) == saved(whole)

    def test_many_partitions_are_cut_on_the_way(self) -> None:
        config = CountConfig(min_df=1, max_df=1.0, max_terms=50)
        terms = [f"t{i:04d}" for i in range(400)]
        rows = [
            pa.table([[t], [1], [1 + (i * 7919) % 400]], schema=vocabulary.PRUNED)
            for i, t in enumerate(terms)
        ]
        with mock.patch.object(vocabulary, "_MIN_PENDING_ROWS", 0):
            fitted = vocabulary.build_vocabulary(iter(rows), {"zh": 1}, config)
        assert fitted.collection_frequency.min() == 351
        assert len(fitted) == 50

    def test_term_in_two_partitions(self) -> None:
        pruned = vocabulary.prune_counts(count([["a"]]), {"zh": 1}, CountConfig(1, 1.0))
        with pytest.raises(ValueError, match="two partitions"):
            vocabulary.build_vocabulary([pruned, pruned], {"zh": 1}, CountConfig())


class TestFallback:
    def test_used_when_nothing_is_left(self) -> None:
        config = CountConfig(min_df=5, max_df=0.5, max_terms=2)
        parts = counts.partition_counts(count([["a", "b"], ["a", "c", "c"]]), 3)
        fitted, used = vocabulary.fit_vocabulary(parts, {"zh": 2}, config)
        assert used == CountConfig(min_df=1, max_df=1.0, max_terms=2)
        assert fitted.terms.to_pylist() == ["a", "c"]

    def test_not_used_otherwise(self) -> None:
        config = CountConfig(min_df=1, max_df=0.5)
        fitted, used = vocabulary.fit_vocabulary([count([["a", "b"], ["a"]])], {"zh": 2}, config)
        assert used == config
        assert fitted.terms.to_pylist() == ["b"]

    def test_corpus_without_terms(self) -> None:
        fitted, used = vocabulary.fit_vocabulary([count([[], []])], {"zh": 2}, CountConfig())
        assert used == CountConfig(min_df=1, max_df=1.0)
        assert (len(fitted), fitted.num_documents) == (0, 2)


class TestTermId:
    def test_known_and_unknown(self) -> None:
        fitted = make_vocabulary([["词", "b", "a"]])
        ids = fitted.term_id(pa.array(["a", "zz", "词", "", "b"]))
        assert ids.dtype == np.int32
        assert ids.tolist() == [0, -1, 2, -1, 1]
        assert fitted.term_id(pa.array([], pa.string())).tolist() == []

    def test_by_hand(self) -> None:
        fitted = make_vocabulary([["a", "b", "c"]])
        terms = pa.array([["c", "a", "c"], None, [], ["zz"], ["b", "zz"]], STRINGS)
        bow = fitted.bag_of_words(terms)
        assert bow.schema == schemas.BOW
        assert bow.to_pydict() == {
            "term_ids": [[0, 2], None, [], [], [1]],
            "counts": [[1, 2], None, [], [], [1]],
        }

    @given(st.lists(st.one_of(st.none(), st.lists(letter, max_size=8)), max_size=10))
    def test_equals_a_counter(self, documents: list[list[str] | None]) -> None:
        fitted = make_vocabulary([["a", "词语", "\U0001f600", "\uffee", "b"]])
        ids = {term: index for index, term in enumerate(fitted.terms.to_pylist())}
        bow = fitted.bag_of_words(pa.array(documents, STRINGS))
        bow.validate(full=True)
        pairs = [
            None if terms is None else sorted(Counter(ids[t] for t in terms if t in ids).items())
            for terms in documents
        ]
        expected = [None if p is None else list(map(list, zip(*p, strict=True))) for p in pairs]
        got = zip(bow["term_ids"].to_pylist(), bow["counts"].to_pylist(), strict=True)
        assert list(got) == [
            (None, None) if e is None else tuple(e) if e else ([], []) for e in expected
        ]

    @given(st.lists(st.lists(letter, max_size=8), max_size=12), st.integers(1, 5))
    def test_any_block_size(self, documents: list[list[str]], size: int) -> None:
        fitted = make_vocabulary([["a", "b", "词"]])
        terms = pa.array(documents, STRINGS)
        whole = fitted.bag_of_words(terms)
        blocks = [fitted.bag_of_words(terms[i : i + size]) for i in range(0, len(terms), size)]
        assert pa.Table.from_batches(blocks, schemas.BOW).equals(pa.Table.from_batches([whole]))

    def test_empty_vocabulary(self) -> None:
        bow = make_vocabulary([]).bag_of_words(pa.array([["a"], None], STRINGS))
        assert bow.to_pydict() == {"term_ids": [[], None], "counts": [[], None]}

    def test_equals_sklearn_on_real_text(self, shared_corpora: Path) -> None:
        lines = (shared_corpora / "en_semeval2017.jsonl").read_text(encoding="utf-8").splitlines()
        documents = [json.loads(line)["text"].lower().split() for line in lines]
        fitted = make_vocabulary(documents, min_df=2, max_df=0.5)
        vectorizer = CountVectorizer(analyzer=list, min_df=2, max_df=0.5)
        matrix = vectorizer.fit_transform(documents)
        matrix.sort_indices()
        # Code point order is UTF-8 byte order, so scikit-learn's columns stand in id order.
        assert fitted.terms.to_pylist() == vectorizer.get_feature_names_out().tolist()
        bow = fitted.bag_of_words(pa.array(documents, STRINGS))
        np.testing.assert_array_equal(bow["term_ids"].flatten().to_numpy(), matrix.indices)
        np.testing.assert_array_equal(bow["counts"].flatten().to_numpy(), matrix.data)
        np.testing.assert_array_equal(bow["term_ids"].offsets.to_numpy(), matrix.indptr)


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        fitted = make_vocabulary([["b", "词", "词"], ["b"], []])
        path = tmp_path / "vocabulary.parquet"
        fitted.save(path)
        loaded = Vocabulary.load(path)
        assert loaded.to_table().equals(fitted.to_table())
        assert loaded.num_documents_by_language == {"zh": 3}
        assert loaded.num_documents == 3
        assert loaded.term_id(pa.array(["词"])).tolist() == [1]

    def test_file_and_bytes(self, tmp_path: Path) -> None:
        fitted = make_vocabulary([["b", "a"]])
        path = tmp_path / "vocabulary.parquet"
        fitted.save(str(path))
        assert path.read_bytes() == saved(fitted) == saved(Vocabulary.load(path))
        assert pq.read_schema(path).remove_metadata() == schemas.TERMS
        column = pq.read_metadata(path).row_group(0).column(0)
        assert column.compression == "ZSTD"

    def test_order_of_languages_does_not_show(self) -> None:
        tables = [count([["a"]], "zh"), count([["a"]], "en")]
        config = CountConfig(min_df=1, max_df=1.0)
        files = []
        for totals in ({"zh": 1, "en": 2}, {"en": 2, "zh": 1}):
            merged = [counts.merge_counts(tables)]
            files.append(saved(vocabulary.fit_vocabulary(merged, totals, config)[0]))
        assert files[0] == files[1]

    def test_empty(self, tmp_path: Path) -> None:
        make_vocabulary([]).save(tmp_path / "v.parquet")
        assert len(Vocabulary.load(tmp_path / "v.parquet")) == 0

    @pytest.mark.parametrize("name", ["language=zh", "a:b", "s3:x", "词 表"])
    def test_odd_names(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        fitted = make_vocabulary([["a"]])
        fitted.save(folder / "v.parquet")
        assert saved(Vocabulary.load(folder / "v.parquet")) == saved(fitted)

    def test_not_parquet(self, tmp_path: Path) -> None:
        for content in (b"", b"PAR1", b"no parquet, but long enough for a footer"):
            (tmp_path / "v.parquet").write_bytes(content)
            with pytest.raises(ValueError, match="not a vocabulary"):
                Vocabulary.load(tmp_path / "v.parquet")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Vocabulary.load(tmp_path / "none.parquet")

    def test_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "v.parquet"
        path.write_bytes(saved(make_vocabulary([["a", "b"]]))[:-20])
        with pytest.raises(ValueError, match=r"v\.parquet is not a vocabulary"):
            Vocabulary.load(path)

    @pytest.mark.parametrize("metadata", [None, {"lexbeam": "{}"}, {"lexbeam": "[]"}, {"x": "y"}])
    def test_without_totals(self, tmp_path: Path, metadata: dict[str, str] | None) -> None:
        table = make_vocabulary([["a"]]).to_table().replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / "v.parquet")
        with pytest.raises(ValueError, match="not a vocabulary"):
            Vocabulary.load(tmp_path / "v.parquet")

    @pytest.mark.parametrize("change", ["order", "twice", "null", "columns", "total"])
    def test_damaged(self, tmp_path: Path, change: str) -> None:
        path = tmp_path / "v.parquet"
        path.write_bytes(saved(make_vocabulary([["a", "b"], ["b"]])))
        table = pq.read_table(path)
        metadata = table.schema.metadata
        if change == "order":
            table = table.take(pa.array([1, 0]))
        elif change == "twice":
            table = table.take(pa.array([1, 1]))
        elif change == "null":
            table = table.set_column(3, schemas.TERMS.field("idf"), pa.array([1.0, None]))
        elif change == "columns":
            table = table.drop_columns("idf")
        else:
            totals = {"num_documents": 5, "num_documents_by_language": {"zh": 2}}
            metadata = {b"lexbeam": json.dumps(totals)}
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(ValueError, match="not a vocabulary"):
            Vocabulary.load(path)

    def test_pickle(self) -> None:
        fitted = make_vocabulary([["a", "b"]])
        fitted.term_id(pa.array(["a"]))
        copy = pickle.loads(pickle.dumps(fitted))
        assert saved(copy) == saved(fitted)
        assert copy.term_id(pa.array(["b", "c"])).tolist() == [1, -1]
        assert "_index" not in fitted.__getstate__()

    def test_cached(self, tmp_path: Path) -> None:
        path = tmp_path / "v.parquet"
        make_vocabulary([["a"]]).save(path)
        assert vocabulary.cached_vocabulary(path) is vocabulary.cached_vocabulary(path)


class TestLogarithm:
    @given(st.lists(st.integers(1, 2**40), max_size=30))
    def test_is_the_scalar_logarithm(self, values: list[int]) -> None:
        got = vocabulary.logarithm(np.array(values, dtype=np.int64))
        assert got.tolist() == [math.log(value) for value in values]
