"""Tests of TextRank: graphs rebuilt with networkx, merged phrases, independence of the block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import schemas, textrank
from lexbeam.models.config import TextConfig, TextRankConfig
from lexbeam.models.jieba_data import load_tags
from lexbeam.models.textrank import build_graph, keywords_textrank, pagerank, word_scores
from lexbeam.models.tokens import Tokenizer
from lexbeam.models.word_classes import english_class

CONFIG = TextRankConfig()

ENGLISH = (
    "Graph ranking finds the central words of a text. A word graph links each word to the words "
    "around it; graph ranking then gives every word a score. The score of a central word is high."
)
CHINESE = (
    "图书馆保存古代文献。古代文献需要恒温恒湿的保存环境，图书馆修复古代文献并建立数字档案。"
    "数字档案方便读者查阅古代文献。"
)


def make_batch(documents: list[str | None], languages: list[str | None]) -> pa.RecordBatch:
    tokens = Tokenizer(TextConfig()).tokenize(documents, languages)
    columns = [pa.array(documents, pa.string()), pa.array(languages, pa.string())]
    return pa.RecordBatch.from_arrays(
        columns + tokens.columns, names=["content", "language", *tokens.schema.names]
    )


def hand_batch(tokens: list[str], kinds: list[int], language: str = "other") -> pa.RecordBatch:
    """One document, its tokens divided by single spaces."""
    starts = np.cumsum([0] + [len(token) + 1 for token in tokens])[: len(tokens)]
    row: dict[str, Any] = {
        "content": " ".join(tokens),
        "language": language,
        "tokens": tokens,
        "kinds": kinds,
        "starts": starts.tolist(),
        "ends": [int(start) + len(token) for start, token in zip(starts, tokens, strict=True)],
    }
    names = ("language", "tokens", "kinds", "starts", "ends")
    fields = [field for field in schemas.TOKEN_FIELDS if field.name in names]
    return pa.RecordBatch.from_pylist(
        [row], schema=pa.schema([pa.field("content", pa.string()), *fields])
    )


def networkx_scores(tokens: list[str], kinds: list[int], language: str) -> dict[str, float]:
    """TextRank by the module's docstring, with networkx and plain loops."""
    sequences: list[list[str]] = [[]]
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == schemas.SENTENCE_END:
            sequences.append([])
        if kind == schemas.TERM and (
            language == "other"
            or (language == "zh" and load_tags().get(token, "x")[0] in "nva")
            or (language == "en" and english_class(token) in ("noun", "adjective"))
        ):
            sequences[-1].append(token)
    graph = nx.Graph()
    for sequence in sequences:
        graph.add_nodes_from(sequence)
        for i, left in enumerate(sequence):
            for right in sequence[i + 1 : i + 10]:
                if left != right:
                    weight = graph.get_edge_data(left, right, {"weight": 0})["weight"]
                    graph.add_edge(left, right, weight=weight + 1)
    if not graph:
        return {}
    scores: dict[str, float] = nx.pagerank(graph, alpha=0.85, tol=1e-6)
    return scores


def assert_equals_networkx(batch: pa.RecordBatch) -> None:
    result = word_scores(batch, CONFIG)
    for row in range(batch.num_rows):
        begin, end = result.offsets[row], result.offsets[row + 1]
        terms = result.terms[begin:end].to_pylist()
        expected = networkx_scores(
            batch["tokens"][row].as_py(),
            batch["kinds"][row].as_py(),
            batch["language"][row].as_py(),
        )
        assert set(terms) == set(expected)
        assert len(terms) == len(expected)
        np.testing.assert_allclose(
            result.scores[begin:end], [expected[term] for term in terms], rtol=0, atol=1e-6
        )


def test_graph_by_hand() -> None:
    # a b a | c b, window 2: a-b twice, c-b once; nothing across the sentence.
    indptr, neighbours, weights = build_graph([0, 1, 0, 2, 1], [0, 0, 0, 1, 1], 3, window_size=2)
    rows = [
        dict(zip(neighbours[begin:end].tolist(), weights[begin:end].tolist(), strict=True))
        for begin, end in zip(indptr[:-1], indptr[1:], strict=True)
    ]
    assert rows == [{1: 2.0}, {0: 2.0, 2: 1.0}, {1: 1.0}]


def test_window_counts_places_less_than_its_size_apart() -> None:
    indptr, neighbours, _ = build_graph([0, 1, 2, 3], [0] * 4, 4, window_size=3)
    assert sorted(neighbours[indptr[0] : indptr[1]].tolist()) == [1, 2]


def test_repeated_word_has_no_loop() -> None:
    indptr, neighbours, _ = build_graph([0, 0, 0], [0] * 3, 1)
    assert (indptr.tolist(), neighbours.tolist()) == ([0, 0], [])


@pytest.mark.parametrize(
    ("nodes", "sentences"), [([0, 3], [0, 0]), ([0, -1], [0, 0]), ([0, 1], [0])]
)
def test_bad_graph_is_refused(nodes: list[int], sentences: list[int]) -> None:
    with pytest.raises(ValueError, match="node"):
        build_graph(nodes, sentences, 3)


def test_pagerank_by_hand() -> None:
    # A path a - b - c: b = .05 + .85 (a + c), a = c = .05 + .85 b / 2.
    scores = pagerank(
        build_graph([0, 1, 2], [0] * 3, 3, window_size=2), TextRankConfig(2, 0.85, 1e-12)
    )
    middle = (0.05 + 0.085) / (1 - 0.85**2)
    side = 0.05 + 0.425 * middle
    np.testing.assert_allclose(scores, [side, middle, side], atol=1e-9)


def test_dangling_node_gives_to_all() -> None:
    # An edge a - b and c alone: c = .05 + .85 c / 3.
    scores = pagerank(build_graph([0, 1, 2], [0, 0, 1], 3), TextRankConfig(tolerance=1e-12))
    alone = 0.05 / (1 - 0.85 / 3)
    np.testing.assert_allclose(scores, [(1 - alone) / 2, (1 - alone) / 2, alone], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    nodes=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=60),
    window_size=st.integers(2, 12),
)
def test_equals_networkx_on_any_sequence(nodes: list[tuple[int, int]], window_size: int) -> None:
    words = [node for node, _ in nodes]
    sentences = np.cumsum([step for _, step in nodes])
    graph = nx.Graph()
    graph.add_nodes_from(range(13))
    for i, left in enumerate(words):
        for j in range(i + 1, min(i + window_size, len(words))):
            if sentences[i] == sentences[j] and left != words[j]:
                weight = graph.get_edge_data(left, words[j], {"weight": 0})["weight"]
                graph.add_edge(left, words[j], weight=weight + 1)
    expected = nx.pagerank(graph, alpha=0.85, tol=1e-6)
    scores = pagerank(build_graph(words, sentences, 13, window_size))
    np.testing.assert_allclose(scores, [expected[node] for node in range(13)], rtol=0, atol=1e-6)
    assert scores.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "language"), [(ENGLISH, "en"), (CHINESE, "zh"), (ENGLISH, "other")]
)
def test_documents_equal_networkx(text: str, language: str) -> None:
    batch = make_batch([text], [language])
    assert len(word_scores(batch, CONFIG).scores) > 5
    assert_equals_networkx(batch)


@pytest.mark.parametrize(("name", "language"), [("zh_thucnews800", "zh"), ("en_bbc_news", "en")])
def test_corpora_equal_networkx(shared_corpora: Path, name: str, language: str) -> None:
    with (shared_corpora / f"{name}.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(30), strict=False)]
    assert_equals_networkx(make_batch(texts, [language] * len(texts)))


def test_only_content_words_are_nodes() -> None:
    batch = make_batch(["The cat quickly proposes a red system.", "我们建立图书馆。"], ["en", "zh"])
    result = word_scores(batch, CONFIG)
    assert result.terms.to_pylist() == ["cat", "red", "system", "建立", "图书馆"]
    assert result.offsets.tolist() == [0, 3, 5]


def test_token_scores_are_those_of_their_nodes() -> None:
    batch = make_batch([ENGLISH], ["en"])
    result = word_scores(batch, CONFIG)
    scores = dict(zip(result.terms.to_pylist(), result.scores.tolist(), strict=True))
    tokens, kinds = batch["tokens"][0].as_py(), batch["kinds"][0].as_py()
    expected = [
        scores.get(token, 0.0) if kind == schemas.TERM else 0.0
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    assert result.token_scores.tolist() == expected


def test_adjacent_selected_words_become_a_phrase() -> None:
    # "red" stands beside "apple" once; "." divides; all are selected since top_k is large.
    tokens = ["red", "apple", ".", "apple", ".", "green"]
    end = schemas.SENTENCE_END
    batch = hand_batch(tokens, [0, 0, end, 0, end, 0])
    result = word_scores(batch, CONFIG)
    score = dict(zip(result.terms.to_pylist(), result.scores.tolist(), strict=True))
    keywords = keywords_textrank(batch, 10, CONFIG)[0].as_py()
    expected = {
        "red apple": score["red"] + score["apple"],
        "apple": score["apple"],
        "green": score["green"],
    }
    assert {entry["term"]: entry["score"] for entry in keywords} == pytest.approx(expected)


def test_only_the_best_third_is_selected() -> None:
    # A star: the centre stands beside every leaf, each in a sentence of its own.
    tokens: list[str] = []
    kinds: list[int] = []
    for leaf in range(8):
        tokens += ["centre", f"leaf{leaf}", "."]
        kinds += [0, 0, schemas.SENTENCE_END]
    # Nine nodes, three selected: the centre and, of equal leaves, the first two in term order.
    keywords = keywords_textrank(hand_batch(tokens, kinds), 1, CONFIG)[0].as_py()
    assert [entry["term"] for entry in keywords] == ["centre leaf0"]
    many = keywords_textrank(hand_batch(tokens, kinds), 4, CONFIG)[0].as_py()
    assert [entry["term"] for entry in many] == [
        "centre leaf0",
        "centre leaf1",
        "centre leaf2",
        "centre",
    ]
    assert many[0]["score"] == many[1]["score"] == many[2]["score"]


def test_long_runs_fall_into_words() -> None:
    words = [f"word{i}" for i in range(textrank.MAX_PHRASE_WORDS + 1)]
    keywords = keywords_textrank(hand_batch(words, [0] * len(words)), 20, CONFIG)[0].as_py()
    assert {entry["term"] for entry in keywords} == set(words)
    fits = keywords_textrank(hand_batch(words[1:], [0] * 5), 20, CONFIG)[0].as_py()
    assert [entry["term"] for entry in fits] == [" ".join(words[1:])]


def test_stop_words_and_punctuation_divide_phrases() -> None:
    batch = hand_batch(
        ["alpha", "of", "beta", ",", "gamma"], [0, schemas.STOP, 0, schemas.PUNCTUATION, 0]
    )
    keywords = keywords_textrank(batch, 10, CONFIG)[0].as_py()
    assert {entry["term"] for entry in keywords} == {"alpha", "beta", "gamma"}


def test_chinese_words_are_joined_without_space() -> None:
    keywords = keywords_textrank(make_batch([CHINESE], ["zh"]), 10, CONFIG)[0].as_py()
    terms = [entry["term"] for entry in keywords]
    assert "数字档案" in terms
    assert not any(" " in term for term in terms)


def test_a_space_divides_chinese_words() -> None:
    terms = keywords_textrank(make_batch(["图书馆 文献"], ["zh"]), 10, CONFIG)[0].as_py()
    assert {entry["term"] for entry in terms} == {"图书馆", "文献"}


def test_ties_stand_in_term_order_and_scores_fall() -> None:
    batch = make_batch([ENGLISH, CHINESE], ["en", "zh"])
    for row in keywords_textrank(batch, 20, CONFIG).to_pylist():
        keys = [(-entry["score"], entry["term"].encode()) for entry in row]
        assert keys == sorted(keys)
        assert len({entry["term"] for entry in row}) == len(row)


def test_null_and_poor_documents() -> None:
    batch = make_batch(["", None, "!!! ...", ENGLISH], ["en", None, "zh", "en"])
    keywords = keywords_textrank(batch, 5, CONFIG)
    assert keywords.type == schemas.KEYWORDS
    rows = keywords.to_pylist()
    assert (rows[0], rows[1], rows[2], len(rows[3])) == ([], None, [], 5)


def test_empty_batch() -> None:
    batch = make_batch([], [])
    assert len(keywords_textrank(batch, 5, CONFIG)) == 0


def test_wrong_arguments_are_refused() -> None:
    batch = make_batch([ENGLISH], ["en"])
    with pytest.raises(ValueError, match="top_k"):
        keywords_textrank(batch, 0, CONFIG)
    wrong = batch.set_column(1, "language", pa.array(["xx"]))
    with pytest.raises(ValueError, match="'xx'"):
        word_scores(wrong, CONFIG)
    cut = batch.set_column(
        batch.schema.get_field_index("starts"), "starts", pa.array([[0]], pa.list_(pa.int32()))
    )
    with pytest.raises(ValueError, match="starts"):
        word_scores(cut, CONFIG)


WORDS = st.sampled_from(
    ["graph", "rank", "red", "the", ".", ",", "文献", "图书馆", "的", "。", "3", "x"]
)


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(
        st.tuples(
            st.lists(WORDS, max_size=25).map(" ".join), st.sampled_from(["zh", "en", "other"])
        ),
        min_size=1,
        max_size=5,
    ),
    data=st.data(),
)
def test_results_do_not_depend_on_the_block(
    documents: list[tuple[str, str]], data: st.DataObject
) -> None:
    batch = make_batch([text for text, _ in documents], [name for _, name in documents])
    together = keywords_textrank(batch, 6, CONFIG)
    cut = data.draw(st.integers(0, len(documents)))
    parts = [keywords_textrank(part, 6, CONFIG) for part in (batch.slice(0, cut), batch.slice(cut))]
    assert pa.concat_arrays(parts).equals(together)


def test_words_of_the_users_dictionary_are_nodes():
    from lexbeam.models.textrank import content_words, word_scores
    from lexbeam.models.user_dict import UserWord

    words = [
        UserWord(1, "云原生", None, None),
        UserWord(2, "ＡＢ引擎", 5, "nz"),
        UserWord(3, "快速地", 5, "d"),
    ]
    user_words = content_words(words)
    assert user_words == {"云原生", "ab引擎"}
    tokens = ["云原生", "茶叶", "ab引擎", "快速地"]
    batch = pa.record_batch(
        {
            "language": ["zh"],
            "tokens": pa.array([tokens]),
            "kinds": pa.array([[schemas.TERM] * 4], pa.list_(pa.int8())),
            "starts": pa.array([[0, 3, 5, 9]], pa.list_(pa.int32())),
            "ends": pa.array([[3, 5, 9, 12]], pa.list_(pa.int32())),
        }
    )
    assert word_scores(batch, TextRankConfig()).terms.to_pylist() == ["茶叶"]
    found = word_scores(batch, TextRankConfig(), user_words)
    assert set(found.terms.to_pylist()) == {"云原生", "茶叶", "ab引擎"}
