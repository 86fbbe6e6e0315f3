"""TF-IDF: hand-computed weights, parity with scikit-learn, and independence of blocks."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer

from lexbeam.models import counts, language, schemas, tfidf, tokens, vocabulary
from lexbeam.models.config import CountConfig, TextConfig
from lexbeam.models.vocabulary import Vocabulary

STRINGS = pa.list_(pa.string())
EVERYTHING = CountConfig(min_df=1, max_df=1.0)

Documents = list[list[str]]

letter = st.sampled_from(["a", "b", "c", "d", "e", "词", "词语", "\uffee", "\U0001f600"])
corpus = st.lists(st.lists(letter, max_size=12), min_size=1, max_size=12)


def fit(documents: Documents, config: CountConfig = EVERYTHING) -> Vocabulary:
    """Vocabulary of Chinese documents."""
    languages = pa.array(["zh"] * len(documents), pa.string())
    table = counts.count_terms(pa.array(documents, STRINGS), languages)
    return vocabulary.fit_vocabulary([table], {"zh": len(documents)}, config)[0]


def weights_of(bow: pa.RecordBatch, fitted: Vocabulary, **options: Any) -> npt.NDArray[np.float64]:
    """Weights of a block, (nnz,)."""
    indptr = counts.row_offsets(counts.list_lengths(bow["term_ids"]))
    flat = (bow[name].flatten().to_numpy() for name in ("term_ids", "counts"))
    return tfidf.weights(indptr, *flat, fitted.idf, **options)


def dense(bow: pa.RecordBatch, fitted: Vocabulary, **options: Any) -> npt.NDArray[np.float64]:
    """Weights as a matrix, (num_documents, num_terms)."""
    matrix = np.zeros((bow.num_rows, len(fitted)))
    rows = np.repeat(np.arange(bow.num_rows), counts.list_lengths(bow["term_ids"]))
    matrix[rows, bow["term_ids"].flatten().to_numpy()] = weights_of(bow, fitted, **options)
    return matrix


def bigrams(content: str) -> list[str]:
    """Pairs of neighbouring characters: terms enough for Chinese without a dictionary."""
    return [content[i : i + 2] for i in range(len(content) - 1)]


def words(content: str) -> list[str]:
    """Lower-cased words between white space."""
    return content.lower().split()


def read_texts(path: Path) -> list[str]:
    """The texts of a corpus."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


class TestWeights:
    def test_by_hand(self) -> None:
        idf = np.array([1.0, 2.0, 0.5])
        got = tfidf.weights(
            np.array([0, 2, 2, 3]), np.array([0, 2, 1]), np.array([3, 8, 7]), idf, False
        )
        assert got.dtype == np.float64
        assert got.tolist() == [3 / 5, 4 / 5, 1.0]

    def test_sublinear_by_hand(self) -> None:
        counts_of_terms = np.array([1, 3])
        got = tfidf.weights(np.array([0, 2]), np.array([1, 0]), counts_of_terms, np.ones(2), True)
        second = 1 + math.log(3)
        norm = math.hypot(1, second)
        np.testing.assert_allclose(got, [1 / norm, second / norm], rtol=1e-15)

    def test_empty_block(self) -> None:
        nothing = np.zeros(0, dtype=np.int32)
        assert tfidf.weights(np.array([0]), nothing, nothing, np.ones(3)).shape == (0,)
        assert tfidf.weights(np.array([0, 0]), nothing, nothing, np.zeros(0)).shape == (0,)

    @pytest.mark.parametrize("indptr", [[0, 1], [0, 3], [1, 2]])
    def test_misfit(self, indptr: list[int]) -> None:
        with pytest.raises(ValueError, match="indptr"):
            tfidf.weights(np.array(indptr), np.array([0, 1]), np.array([1, 1]), np.ones(2))

    @given(corpus, st.booleans())
    def test_equals_sklearn(self, documents: Documents, sublinear_tf: bool) -> None:
        fitted = fit(documents)
        if not len(fitted):
            return
        vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=sublinear_tf)
        expected = vectorizer.fit_transform(documents).toarray()
        bow = fitted.bag_of_words(pa.array(documents, STRINGS))
        assert vectorizer.get_feature_names_out().tolist() == fitted.terms.to_pylist()
        np.testing.assert_allclose(fitted.idf, vectorizer.idf_, rtol=0, atol=1e-12)
        got = dense(bow, fitted, sublinear_tf=sublinear_tf)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)

    @given(
        st.lists(st.dictionaries(st.integers(0, 299), st.integers(1, 40)), max_size=12),
        st.integers(0, 12),
        st.booleans(),
    )
    def test_same_bits_in_any_block(
        self, documents: list[dict[int, int]], cut: int, sublinear_tf: bool
    ) -> None:
        idf = 1 + np.log(np.arange(2.0, 302.0))

        def compute(block: list[dict[int, int]]) -> npt.NDArray[np.float64]:
            ids = [term_id for document in block for term_id in document]
            frequency = [count for document in block for count in document.values()]
            indptr = counts.row_offsets(np.array([len(document) for document in block], np.int64))
            ids_and_counts = np.array(ids, np.int32), np.array(frequency, np.int32)
            return tfidf.weights(indptr, *ids_and_counts, idf, sublinear_tf)

        whole = compute(documents)
        parts = np.concatenate([compute(documents[:cut]), compute(documents[cut:])])
        single = [compute([document]) for document in documents]
        assert whole.tobytes() == parts.tobytes() == b"".join(w.tobytes() for w in single)

    @pytest.mark.parametrize(
        ("name", "analyzer", "sublinear_tf"),
        [
            ("zh_csl_dev", bigrams, False),
            ("en_semeval2017", words, True),
        ],
    )
    def test_real_text(
        self,
        shared_corpora: Path,
        name: str,
        analyzer: Callable[[str], list[str]],
        sublinear_tf: bool,
    ) -> None:
        texts = read_texts(shared_corpora / f"{name}.jsonl")
        vectorizer = TfidfVectorizer(
            analyzer=analyzer, min_df=2, max_df=0.5, sublinear_tf=sublinear_tf
        )
        expected = vectorizer.fit_transform(texts)
        expected.sort_indices()
        documents = [analyzer(text) for text in texts]
        fitted = fit(documents, CountConfig(min_df=2, max_df=0.5))
        assert fitted.terms.to_pylist() == vectorizer.get_feature_names_out().tolist()
        bow = fitted.bag_of_words(pa.array(documents, STRINGS))
        np.testing.assert_array_equal(bow["term_ids"].flatten().to_numpy(), expected.indices)
        got = weights_of(bow, fitted, sublinear_tf=sublinear_tf)
        np.testing.assert_allclose(got, expected.data, rtol=0, atol=1e-12)


class TestTopTerms:
    def test_by_hand(self) -> None:
        # idf: b and c 1 + ln(4/2), a 1 + ln(4/4).
        documents = [["a", "c", "b", "a"], ["a", "b"], ["a", "a", "c"]]
        fitted = fit([["a", "b"], ["a", "c"], ["a"]])
        top = tfidf.top_terms(fitted.bag_of_words(pa.array(documents, STRINGS)), fitted, 2)
        assert top.type == schemas.KEYWORDS
        rare, common = 1 + math.log(2), 1.0
        assert [[pair["term"] for pair in row] for row in top.to_pylist()] == [
            ["a", "b"],  # 2 against 1.69 and 1.69: b before c
            ["b", "a"],
            ["a", "c"],
        ]
        expected = rare / math.hypot(rare, common)
        assert top[1][0]["score"].as_py() == np.float32(expected)

    def test_nulls_and_empty_documents(self) -> None:
        fitted = fit([["a"]])
        bow = fitted.bag_of_words(pa.array([None, [], ["zz"], ["a"], None], STRINGS))
        top = tfidf.top_terms(bow, fitted, 3)
        assert top.to_pylist() == [None, [], [], [{"term": "a", "score": 1.0}], None]

    def test_ties_are_those_of_float32(self) -> None:
        """Weights that differ in float64 only stand in term order."""
        fitted = fit([["a", "b"]])
        close = Vocabulary(
            terms=fitted.terms,
            document_frequency=fitted.document_frequency,
            collection_frequency=fitted.collection_frequency,
            idf=np.array([1.0, 1.0 + 1e-12]),
            num_documents=1,
            num_documents_by_language={"zh": 1},
        )
        top = tfidf.top_terms(close.bag_of_words(pa.array([["b", "a"]], STRINGS)), close, 2)
        assert [pair["term"] for pair in top.to_pylist()[0]] == ["a", "b"]

    @given(corpus, st.integers(1, 12), st.booleans())
    def test_equals_sorting_in_python(
        self, documents: Documents, top_k: int, sublinear_tf: bool
    ) -> None:
        fitted = fit(documents)
        bow = fitted.bag_of_words(pa.array(documents, STRINGS))
        top = tfidf.top_terms(bow, fitted, top_k, sublinear_tf)
        top.validate(full=True)
        terms = fitted.terms.to_pylist()
        for row, got in zip(dense(bow, fitted, sublinear_tf=sublinear_tf), top, strict=True):
            pairs = [(-np.float32(row[i]), terms[i].encode(), i) for i in np.flatnonzero(row)]
            expected = [(terms[i], -score) for score, _, i in sorted(pairs)[:top_k]]
            assert [(pair["term"], pair["score"]) for pair in got.as_py()] == expected

    @given(corpus, st.integers(1, 5))
    def test_any_block_size(self, documents: Documents, size: int) -> None:
        fitted = fit(documents)
        terms = pa.array([*documents, None], STRINGS)
        bow = fitted.bag_of_words(terms)
        blocks = [
            tfidf.top_terms(bow[i : i + size], fitted, 4) for i in range(0, bow.num_rows, size)
        ]
        assert pa.concat_arrays(blocks).equals(tfidf.top_terms(bow, fitted, 4))

    def test_no_rows(self) -> None:
        fitted = fit([["a"]])
        bow = fitted.bag_of_words(pa.array([], STRINGS))
        assert tfidf.top_terms(bow, fitted, 3).equals(pa.array([], schemas.KEYWORDS))

    def test_top_k(self) -> None:
        fitted = fit([["a"]])
        with pytest.raises(ValueError, match="top_k"):
            tfidf.top_terms(fitted.bag_of_words(pa.array([["a"]], STRINGS)), fitted, 0)


def write_model(folder: Path, fitted: Vocabulary, text: object) -> None:
    """A model folder with a vocabulary and a configuration."""
    fitted.save(folder / "vocabulary.parquet")
    (folder / "config.json").write_text(json.dumps({"text": text}), encoding="utf-8")


class TestToSklearn:
    TEXTS = ("a b b c", "", "zz", "c c a")

    @pytest.mark.parametrize("sublinear_tf", [False, True])
    def test_same_matrix(self, tmp_path: Path, sublinear_tf: bool) -> None:
        documents = [words(text) for text in self.TEXTS]
        fitted = fit(documents[:1])
        write_model(tmp_path, fitted, {})
        vectorizer = tfidf.to_sklearn(tmp_path, analyzer=words, sublinear_tf=sublinear_tf)
        assert vectorizer.vocabulary_ == {"a": 0, "b": 1, "c": 2}
        assert vectorizer.idf_.tolist() == fitted.idf.tolist()
        matrix = vectorizer.transform(self.TEXTS)
        assert matrix.dtype == np.float64
        bow = fitted.bag_of_words(pa.array(documents, STRINGS))
        expected = dense(bow, fitted, sublinear_tf=sublinear_tf)
        np.testing.assert_allclose(matrix.toarray(), expected, rtol=0, atol=1e-12)
        assert vectorizer.get_feature_names_out().tolist() == ["a", "b", "c"]
        copy = pickle.loads(pickle.dumps(vectorizer))
        np.testing.assert_array_equal(copy.transform(self.TEXTS).toarray(), matrix.toarray())

    @pytest.mark.parametrize("sublinear_tf", [False, True])
    def test_as_it_was_fitted(self, tmp_path: Path, sublinear_tf: bool) -> None:
        documents = [words(text) for text in self.TEXTS]
        fitted = fit(documents)
        write_model(tmp_path, fitted, {})
        path = tmp_path / "config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values["counts"] = {"min_df": 1, "sublinear_tf": sublinear_tf}
        path.write_text(json.dumps(values), encoding="utf-8")
        got = tfidf.to_sklearn(tmp_path, analyzer=words).transform(self.TEXTS).toarray()
        bow = fitted.bag_of_words(pa.array(documents, STRINGS))
        np.testing.assert_allclose(got, dense(bow, fitted, sublinear_tf=sublinear_tf), atol=1e-12)
        values["counts"] = {"sublinear": True}
        path.write_text(json.dumps(values), encoding="utf-8")
        with pytest.raises(ValueError, match="counts"):
            tfidf.to_sklearn(tmp_path, analyzer=words)

    def test_same_as_the_transformer(self, tmp_path: Path) -> None:
        documents = [words(text) for text in self.TEXTS]
        fitted = fit(documents)
        write_model(tmp_path, fitted, {})
        count_matrix = np.array([[d.count(t) for t in fitted.terms.to_pylist()] for d in documents])
        expected = TfidfTransformer().fit_transform(count_matrix).toarray()
        got = tfidf.to_sklearn(str(tmp_path), analyzer=words).transform(self.TEXTS).toarray()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)

    def test_empty_vocabulary(self, tmp_path: Path) -> None:
        write_model(tmp_path, fit([]), {})
        with pytest.raises(ValueError, match="is empty"):
            tfidf.to_sklearn(tmp_path)

    def test_missing_files(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            tfidf.to_sklearn(tmp_path)
        fit([["a"]]).save(tmp_path / "vocabulary.parquet")
        with pytest.raises(FileNotFoundError):
            tfidf.to_sklearn(tmp_path)


class SpaceTokenizer:
    """Tokens between spaces; capitals make stop words; the language is the last token."""

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def tokenize(self, contents: pa.StringArray, languages: pa.StringArray) -> pa.RecordBatch:
        rows = zip(contents.to_pylist(), languages.to_pylist(), strict=True)
        cut = [[*content.split(), name] for content, name in rows]
        kinds = [[schemas.STOP if t.isupper() else schemas.TERM for t in row] for row in cut]
        columns = [pa.array(cut, STRINGS), pa.array(kinds, pa.list_(pa.int8()))]
        return pa.RecordBatch.from_arrays(columns, ["tokens", "kinds"])


class TestTermAnalyzer:
    @pytest.fixture(autouse=True)
    def space_tokenizer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens, "Tokenizer", SpaceTokenizer)

    def test_terms_in_their_order(self) -> None:
        analyzer = tfidf.TermAnalyzer(TextConfig(language="zh"))
        assert analyzer("b THE a b") == ["b", "a", "b", "zh"]
        assert analyzer("") == ["zh"]

    def test_detects_the_language(self) -> None:
        analyzer = tfidf.TermAnalyzer(TextConfig())
        assert analyzer("这是中文")[-1] == "zh"
        assert analyzer("this is English, and no other language")[-1] == "en"

    def test_survives_pickling(self) -> None:
        analyzer = tfidf.TermAnalyzer(TextConfig(language="en"))
        analyzer("a")
        copy = pickle.loads(pickle.dumps(analyzer))
        assert copy.config == analyzer.config
        assert copy("x y") == ["x", "y", "en"]

    def test_from_a_model(self, tmp_path: Path) -> None:
        documents = [["x", "y", "en"], ["y", "en"]]
        write_model(tmp_path, fit(documents), {"language": "en"})
        vectorizer = tfidf.to_sklearn(tmp_path)
        expected = TfidfVectorizer(analyzer=list).fit_transform(documents).toarray()
        got = vectorizer.transform(["x THE y", "y"]).toarray()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


class TestWithTheTokenizer:
    """`to_sklearn` with lexbeam's own tokenizer, which cuts a block of documents at once."""

    CONTENTS = ("量子纠缠态的制备方法", "Topic models of large corpora", "制备方法 models", "")

    def test_dictionaries_of_the_model(self, tmp_path: Path) -> None:
        (tmp_path / "words.txt").write_text("量子纠缠态 1000 n\n", encoding="utf-8")
        (tmp_path / "stop.txt").write_text("large\n", encoding="utf-8")
        write_model(tmp_path, fit([["a"]]), {"user_dict": "words.txt", "stopwords": "stop.txt"})
        analyzer = tfidf.to_sklearn(tmp_path).build_analyzer()
        assert analyzer(self.CONTENTS[0]) == ["量子纠缠态", "制备", "方法"]
        assert analyzer(self.CONTENTS[1]) == ["topic", "models", "corpora"]

    def test_same_matrix(self, tmp_path: Path, shared_corpora: Path) -> None:
        texts = [
            *read_texts(shared_corpora / "zh_csl_dev.jsonl")[:80],
            *read_texts(shared_corpora / "en_semeval2017.jsonl")[:80],
            *self.CONTENTS,
        ]
        languages = [language.detect_language(text) for text in texts]
        block = tokens.Tokenizer(TextConfig()).tokenize(texts, languages)
        terms = counts.term_lists(block["tokens"], block["kinds"])
        table = counts.count_terms(terms, pa.array(languages))
        totals = {name: languages.count(name) for name in ("zh", "en", "other")}
        fitted, _ = vocabulary.fit_vocabulary([table], totals, CountConfig())
        write_model(tmp_path, fitted, {"language": "auto"})
        matrix = tfidf.to_sklearn(tmp_path).transform(texts)
        assert matrix.nnz > 5000
        expected = dense(fitted.bag_of_words(terms), fitted)
        np.testing.assert_allclose(matrix.toarray(), expected, rtol=0, atol=1e-9)


class TestReadTextConfig:
    def test_paths(self, tmp_path: Path) -> None:
        text = {"language": "zh", "user_dict": "words.txt", "stopwords": None}
        write_model(tmp_path, fit([["a"]]), text)
        expected = TextConfig(language="zh", user_dict=str(tmp_path / "words.txt"))
        assert tfidf.read_text_config(tmp_path) == expected

    @pytest.mark.parametrize("name", ["../words.txt", "/etc/passwd", "a/b", "..", "", "a\\b", 3])
    def test_names_outside(self, tmp_path: Path, name: object) -> None:
        write_model(tmp_path, fit([["a"]]), {"stopwords": name})
        with pytest.raises(ValueError, match="stopwords"):
            tfidf.read_text_config(tmp_path)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"text": {"language": "xx"}}'])
    def test_damaged(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"config\.json"):
            tfidf.read_text_config(tmp_path)

    def test_unknown_option(self, tmp_path: Path) -> None:
        write_model(tmp_path, fit([["a"]]), {"langauge": "zh"})
        with pytest.raises(ValueError, match="langauge"):
            tfidf.read_text_config(tmp_path)
