"""Tests of the scores of keyphrases, of the baselines and of the filter for display."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models.keyphrase_baselines import first_phrases, jieba_keywords
from lexbeam.models.keyphrase_diversity import diverse_places
from lexbeam.models.keyphrase_metrics import (
    GoldDocument,
    distinct_forms,
    normal_form,
    paired_bootstrap,
    score,
)
from tests.models.test_keyphrases import make_batch


@pytest.mark.parametrize(
    ("phrase", "language", "expected"),
    [
        ("Neural  Networks", "en", "neural network"),
        ("Web-based platforms,", "en", "web-bas platform"),
        ("(C++ codes)", "en", "c++ code"),
        ("ＰＩＤ控制", "zh", "pid控制"),
        ("réseaux  Neuronaux", "other", "réseaux neuronaux"),
        ("%", "en", "%"),
        (" ", "en", ""),
    ],
)
def test_normal_forms(phrase: str, language: str, expected: str) -> None:
    assert normal_form(phrase, language) == expected


def test_a_form_counts_once() -> None:
    assert distinct_forms(["Graph", "graphs", " ", "tree"], "en") == ["graph", "tree"]


def test_scores_by_hand() -> None:
    documents = [
        GoldDocument.of(["graphs", "neural nets", "absent"], "en", "A graph of neural nets."),
        GoldDocument.of([], "en", "nothing is asked of this one"),
        GoldDocument.of(["tree", "leaf"], "en", "A tree and no leaves; the leaf."),
    ]
    lists = [["graph", "Graphs", "net", "neural nets"], ["x"], ["leaf"]]
    scores = score(lists, documents, 2)
    # The second "graph" is no phrase of its own: the two are graph and net.
    np.testing.assert_array_equal(scores.rows, [0, 2])
    np.testing.assert_array_equal(scores.precision, [1 / 2, 1])
    np.testing.assert_array_equal(scores.recall, [1 / 3, 1 / 2])
    np.testing.assert_allclose(scores.f1, [0.4, 2 / 3])
    macro, micro = scores.macro(), scores.micro()
    assert macro["f1"] == pytest.approx((0.4 + 2 / 3) / 2)
    assert micro == pytest.approx({"precision": 2 / 3, "recall": 2 / 5, "f1": 0.5})
    present = score(lists, documents, 3, present_only=True)
    np.testing.assert_array_equal(present.gold, [2, 2])
    np.testing.assert_array_equal(present.recall, [1, 1 / 2])


def test_an_empty_list_scores_nothing() -> None:
    scores = score([[]], [GoldDocument.of(["graph"], "en")], 5)
    assert scores.macro() == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert scores.micro() == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_no_document_has_gold() -> None:
    scores = score([["a"]], [GoldDocument.of([], "en")], 5)
    assert scores.macro()["f1"] == scores.micro()["f1"] == 0.0


def test_present_phrases_are_whole_words_in_english_alone() -> None:
    english = GoldDocument.of(["art", "state-of-the-art"], "en", "The state-of-the-art part.")
    assert english.present == {"state-of-the-art"}
    chinese = GoldDocument.of(["网络", "深度"], "zh", "神经网络的研究")
    assert chinese.present == {"网络"}


def test_wrong_arguments_of_score() -> None:
    document = GoldDocument.of(["graph"], "en")
    with pytest.raises(ValueError, match="k must be at least 1"):
        score([[]], [document], 0)
    with pytest.raises(ValueError, match="without the document's text"):
        score([[]], [document], 1, present_only=True)
    with pytest.raises(ValueError, match="longer"):
        score([], [document], 1)


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=1, max_size=5),
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=5, max_size=5),
    st.integers(1, 6),
)
def test_scores_by_sets(lists: list[list[str]], gold: list[list[str]], k: int) -> None:
    documents = [GoldDocument.of(g, "other") for g in gold[: len(lists)]]
    scores = score(lists, documents, k)
    for i, row in enumerate(scores.rows):
        top = set(list(dict.fromkeys(lists[row]))[:k])
        hits = len(top & set(gold[row]))
        precision = hits / len(top) if top else 0.0
        recall = hits / len(set(gold[row]))
        both = precision + recall
        assert scores.f1[i] == pytest.approx(2 * precision * recall / both if both else 0.0)


def test_bootstrap_finds_the_interval_of_the_mean() -> None:
    generator = np.random.default_rng(5)
    second = generator.uniform(size=400)
    first = second + generator.normal(0.05, 0.2, size=400)
    found = paired_bootstrap(first, second, 4_000, seed=1)
    assert found == paired_bootstrap(first, second, 4_000, seed=1)
    assert found.mean == pytest.approx((first - second).mean())
    half = 1.96 * (first - second).std() / 20
    assert found.low == pytest.approx(found.mean - half, abs=0.002)
    assert found.high == pytest.approx(found.mean + half, abs=0.002)
    assert found.p < 0.001
    worse = paired_bootstrap(second, first, 100)
    assert worse.high < 0
    assert worse.p == 1.0


def test_bootstrap_of_equal_lists() -> None:
    found = paired_bootstrap(np.ones(3), np.ones(3), 10)
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_wrong_arguments_of_bootstrap() -> None:
    with pytest.raises(ValueError, match="not 1 and 2"):
        paired_bootstrap(np.ones(1), np.ones(2))
    with pytest.raises(ValueError, match="not 0 and 0"):
        paired_bootstrap(np.ones(0), np.ones(0))
    with pytest.raises(ValueError, match="num_samples"):
        paired_bootstrap(np.ones(1), np.ones(1), 0)


# --- baselines


def test_first_phrases_do_not_overlap_or_repeat() -> None:
    english = "Deep neural networks and a large graph. Deep neural network of C++ code."
    chinese = "利用刚体姿态动力学方程建立模型；利用刚体姿态动力学方程"
    batch = make_batch([english, chinese, None], ["en", "zh", "en"])
    lists = first_phrases(batch, 3)
    assert lists[0] == ["Deep neural networks", "large graph", "C++ code"]
    # The first run of four words stands there twice, and covers what lies in it both times.
    assert lists[1] == ["利用刚体姿态动力学", "方程建立模型", "方程"]
    assert lists[2] == []


def test_keywords_of_jieba_are_jiebas() -> None:
    text = "飞行器姿态控制系统的数学模型，利用刚体姿态动力学方程和运动学方程"
    found = [jieba_keywords([text], method, 4) for method in ("tfidf", "textrank")]
    # It leaves a file open as it is imported, which `jieba_keywords` keeps quiet.
    import jieba.analyse

    assert found[0] == [jieba.analyse.extract_tags(text, topK=4)]
    assert found[1] == [jieba.analyse.textrank(text, topK=4)]
    with pytest.raises(ValueError, match="tfidf or textrank"):
        jieba_keywords([text], "bm25", 4)


# --- display


@pytest.mark.parametrize(
    ("language", "phrases", "kept"),
    [
        ("en", ["neural networks", "deep neural networks", "graphs", "Network", "a graph"], [0, 2]),
        ("en", ["language model", "model language", "speech model"], [0, 2]),
        ("en", ["large sparse graph", "large dense graph"], [0, 1]),
        ("en", ["very large sparse graph", "very large sparse tree"], [0]),
        ("zh", ["数据挖掘", "数据", "数据挖掘方法", "学生", "生物学", "挖"], [0, 3, 4, 5]),
        ("zh", ["图像", "图", "像 图"], [0, 1, 2]),
        ("other", ["réseau neuronal", "réseau", "graphe"], [0, 2]),
        ("en", [" ", "tree"], [1]),
        ("en", [], []),
    ],
)
def test_redundant_phrases_are_left_out(language: str, phrases: list[str], kept: list[int]) -> None:
    assert diverse_places(phrases, language) == kept
