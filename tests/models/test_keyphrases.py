"""Tests of candidate phrases, their features and the fused keywords."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import counts, keyphrases, schemas, textrank
from lexbeam.models.config import ConfigError, TextConfig, TextRankConfig
from lexbeam.models.jieba_data import load_tags
from lexbeam.models.keyphrase_candidates import find_candidates, stem
from lexbeam.models.keyphrase_kernels import containing_frequency, sum_attention
from lexbeam.models.keyphrase_weights import FEATURE_NAMES, FeatureWeights, KeyphraseWeights
from lexbeam.models.keyphrases import PhraseCounts, keywords, keywords_bert, phrase_lists
from lexbeam.models.tokens import Tokenizer

TOKENIZER = Tokenizer(TextConfig())
Attention = list[tuple[int, int, float]]


def make_batch(documents: list[str | None], languages: list[str | None]) -> pa.RecordBatch:
    tokens = TOKENIZER.tokenize(documents, languages)
    columns = [pa.array(documents, pa.string()), pa.array(languages, pa.string())]
    return pa.RecordBatch.from_arrays(
        columns + tokens.columns, names=["content", "language", *tokens.schema.names]
    )


def make_encoded(rows: list[Attention | None]) -> pa.RecordBatch:
    """Columns of the encoded parts from (start, end, attention) of each sub-word."""
    fields = [field for field in schemas.encoded_schema(1) if field.name.startswith("attention")]
    columns = [
        pa.array([None if row is None else [unit[i] for unit in row] for row in rows], field.type)
        for i, field in enumerate(fields)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def keys_of(text: str, language: str) -> list[str]:
    lists: list[list[str]] = phrase_lists(make_batch([text], [language])).to_pylist()
    return lists[0]


def terms_of(lists: pa.ListArray, row: int = 0) -> list[str]:
    return [entry["term"] for entry in lists[row].as_py()]


def make_counts(rows: list[tuple[str, str, int, int]], **num_documents: int) -> PhraseCounts:
    names = schemas.COUNTS.names
    table = pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) for row in rows], schema=schemas.COUNTS
    )
    return PhraseCounts.from_counts(table, num_documents)


# --- candidates


def test_english_candidates_are_adjectives_and_nouns() -> None:
    text = "The efficient neural networks quickly beat a large graph of red systems."
    assert keys_of(text, "en") == ["effici neural network", "larg graph", "red system"]


def test_trailing_adjectives_are_left_out() -> None:
    assert keys_of("a system red, networks", "en") == ["system", "network"]
    assert keys_of("system red", "en") == ["system"]


def test_adjectives_may_follow_nouns_in_runs_of_five_words() -> None:
    assert keys_of("quantum mechanical features", "en") == ["quantum mechan featur"]
    assert keys_of("red graph large system network", "en") == ["red graph larg system network"]
    # In longer ones they begin another phrase.
    assert keys_of("red graph large system network house", "en") == [
        "red graph",
        "larg system network hous",
    ]


def test_past_participles_precede_nouns() -> None:
    assert keys_of("distributed systems are measured", "en") == ["distribut system"]
    # "used" is a stop word.
    assert keys_of("measured variables used graphs", "en") == ["measur variabl", "graph"]


@pytest.mark.parametrize(("num_words", "expected"), [(5, 1), (6, 0)])
def test_english_candidates_have_at_most_five_words(num_words: int, expected: int) -> None:
    long = " ".join(["graph"] * num_words)
    assert keys_of(f"{long}, apple", "en").count(" ".join(["graph"] * num_words)) == expected
    assert "appl" in keys_of(f"{long}, apple", "en")


def test_gerunds_follow_a_word_and_begin_nothing() -> None:
    assert keys_of("machine learning, learning machines", "en") == ["machin learn", "machin"]


def test_english_candidates_repeat_as_they_occur() -> None:
    assert keys_of("Neural network. Neural networks; one network.", "en") == [
        "neural network",
        "neural network",
        "network",
    ]


def test_wrapped_lines_do_not_divide_phrases() -> None:
    assert keys_of("an efficient\n\tgraph", "en") == ["effici graph"]
    # A paragraph, and a line that begins anew, do.
    assert keys_of("a title graph\nSystems", "en") == ["titl graph", "system"]
    assert keys_of("a title graph\n\nsystems", "en") == ["titl graph", "system"]


def test_chinese_candidates_are_runs_of_words() -> None:
    assert TOKENIZER.segmenter.cut("图书馆数字档案") == ["图书馆", "数字", "档案"]
    assert keys_of("图书馆数字档案。图书馆", "zh") == [
        "图书馆",
        "图书馆数字",
        "图书馆数字档案",
        "数字",
        "数字档案",
        "档案",
        "图书馆",
    ]


def test_chinese_candidates_have_at_most_four_words() -> None:
    found = keys_of("图书馆数字档案图书馆数字", "zh")
    assert "图书馆数字档案图书馆" in found
    assert "图书馆数字档案图书馆数字" not in found


@pytest.mark.parametrize("word", ["立刻", "公斤", "两百", "东部"])
def test_chinese_candidates_do_not_begin_with_some_classes(word: str) -> None:
    assert load_tags()[word] in ("d", "q", "m", "f")
    assert keys_of(f"{word}飞机", "zh") == ["飞机"]
    # Inside and at the end they may stand.
    assert keys_of(f"飞机{word}", "zh") == ["飞机", f"飞机{word}"]


def test_chinese_candidates_do_not_begin_with_a_number() -> None:
    assert keys_of("5飞机", "zh") == ["飞机"]
    assert keys_of("飞机5", "zh") == ["飞机", "飞机5"]


def test_stop_words_divide_chinese_phrases() -> None:
    assert keys_of("图书馆的档案", "zh") == ["图书馆", "档案"]


def test_chinese_words_follow_the_gap_in_the_text() -> None:
    assert keys_of("图书馆 档案", "zh") == ["图书馆", "档案"]
    assert "deep graph" in keys_of("deep graph模型", "zh")
    assert "graph模型" in keys_of("graph模型", "zh")
    assert "graph 模型" in keys_of("Graph 模型", "zh")


def test_single_characters_are_no_candidate_alone() -> None:
    assert all(len(key) >= 2 for key in keys_of("书，图书馆，书籍", "zh"))
    assert "书" not in keys_of("书，图书馆", "zh")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "le développement durable est un enjeu dans les sociétés",
            ["développement durable", "enjeu", "sociétés"],
        ),
        # "wird" and "durch" are stop words of more than three letters, "öl" is no stop word.
        (
            "maschinelles Lernen wird durch das Öl gebremst",
            ["maschinelles lernen", "öl gebremst"],
        ),
        (
            "Машинное обучение используется для оптимизации процессов",
            ["машинное обучение используется", "оптимизации процессов"],
        ),
        ("図書館の資料", ["図書館", "資料"]),
    ],
)
def test_other_languages_are_cut_at_their_stop_words(text: str, expected: list[str]) -> None:
    assert keys_of(text, "other") == expected


def test_without_a_list_of_stop_words_short_words_cut() -> None:
    assert keys_of("blargon wug zonkor", "other") == ["blargon", "zonkor"]


def test_stop_words_are_those_of_the_document() -> None:
    # "die" is a stop word of German, and of no French text; the documents stand in one block.
    french = "les machines modernes produisent des pièces sous une presse die"
    german = "wir sehen die Maschinen und die Pressen in der Fabrik"
    lists = phrase_lists(make_batch([french, german], ["other", "other"])).to_pylist()
    assert "presse die" in lists[0]
    assert lists[1] == ["sehen", "maschinen", "pressen", "fabrik"]
    assert lists == [keys_of(french, "other"), keys_of(german, "other")]


def test_long_runs_of_other_languages_are_words_and_pairs() -> None:
    assert keys_of("большой зелёный крокодил пришёл", "other") == [
        "большой",
        "большой зелёный",
        "зелёный",
        "зелёный крокодил",
        "крокодил",
        "крокодил пришёл",
        "пришёл",
    ]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("eau vin sel", "other", ["eau", "vin", "sel"]),
        ("normalize streamline", "en", ["normal", "streamlin"]),
        ("!!! ... 12", "en", []),
        ("", "zh", []),
    ],
)
def test_a_document_of_words_is_never_without(
    text: str, language: str, expected: list[str]
) -> None:
    assert keys_of(text, language) == expected


def test_phrase_lists_of_null_rows_and_slices() -> None:
    batch = make_batch(["graph", None, "red system", ""], ["en", None, "en", "other"])
    lists = phrase_lists(batch)
    assert lists.type == pa.list_(pa.string())
    assert lists.to_pylist() == [["graph"], None, ["red system"], []]
    assert phrase_lists(batch.slice(1, 2)).to_pylist() == [None, ["red system"]]
    assert phrase_lists(batch.slice(0, 0)).to_pylist() == []


def test_candidates_count_their_occurrences() -> None:
    found = find_candidates(make_batch(["graph, red graph, graph"], ["en"]))
    assert found.keys.take(pa.array(found.key_ids)).to_pylist() == ["graph", "red graph"]
    assert found.term_frequencies.tolist() == [2, 1]
    assert found.num_words.tolist() == [1, 2]
    assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == [
        (0, 5),
        (7, 16),
        (18, 23),
    ]


# --- corpus counts


def test_counts_are_looked_up_by_language() -> None:
    phrases = make_counts([("graph", "en", 3, 7), ("graph", "zh", 2, 2), ("图", "zh", 5, 9)], en=9)
    wanted = pa.array(["图", "graph", "absent", ""])
    assert [column.tolist() for column in phrases.look_up(wanted, "zh")] == [
        [5, 2, 0, 0],
        [9, 2, 0, 0],
    ]
    assert [column.tolist() for column in phrases.look_up(wanted, "en")] == [
        [0, 3, 0, 0],
        [0, 7, 0, 0],
    ]
    assert phrases.look_up(wanted, "other")[0].tolist() == [0] * 4
    assert phrases.look_up(wanted.slice(1, 1), "en")[0].tolist() == [3]


def test_saved_counts_are_the_same(tmp_path: Path) -> None:
    rows = [("graph", "en", 3, 7), ("图", "zh", 5, 9), ("graph", "zh", 2, 2)]
    phrases = make_counts(rows, en=10, zh=20)
    phrases.save(tmp_path / "a.parquet")
    make_counts(rows[::-1], zh=20, en=10).save(tmp_path / "b.parquet")
    loaded = PhraseCounts.load(tmp_path / "a.parquet")
    assert loaded.table.equals(phrases.table)
    assert loaded.table["term"].to_pylist() == ["graph", "graph", "图"]
    assert loaded.num_documents == {"en": 10, "zh": 20}
    assert len(loaded) == 3
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_empty_counts_can_be_saved(tmp_path: Path) -> None:
    make_counts([]).save(tmp_path / "c.parquet")
    loaded = keyphrases.cached_phrase_counts(str(tmp_path / "c.parquet"))
    assert loaded.look_up(pa.array(["a"]), "en")[0].tolist() == [0]


def test_damaged_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "phrases.parquet"
    with pytest.raises(FileNotFoundError):
        PhraseCounts.load(path)
    make_counts([("graph", "en", 3, 7)], en=10).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"phrases\.parquet"):
        PhraseCounts.load(path)
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"term": ["a"]}), path)
    with pytest.raises(ValueError, match=r"phrases\.parquet"):
        PhraseCounts.load(path)


def test_wrong_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="schema"):
        PhraseCounts.from_counts(pa.table({"term": ["a"]}), {})
    with pytest.raises(ValueError, match="negative"):
        PhraseCounts.from_counts(schemas.COUNTS.empty_table(), {"en": -1})


# --- features


def naive_attention(units: Attention, spans: list[tuple[int, int]]) -> float:
    return sum(
        weight for low, high in spans for start, end, weight in units if start < high and end > low
    )


@settings(max_examples=60, deadline=None)
@given(
    units=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 6), st.floats(0, 50, width=32)), max_size=30
    ),
    spans=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), min_size=1, max_size=10),
)
def test_attention_of_overlapping_units(
    units: list[tuple[int, int, float]], spans: list[tuple[int, int]]
) -> None:
    closed = [(start, start + length, weight) for start, length, weight in units]
    ranges = [(start, start + length) for start, length in spans]
    received = sum_attention(
        np.array([0, len(closed)]),
        np.array([unit[0] for unit in closed], np.int32),
        np.array([unit[1] for unit in closed], np.int32),
        np.array([unit[2] for unit in closed], np.float32),
        np.array([0, len(ranges)]),
        np.array([low for low, _ in ranges], np.int32),
        np.array([high for _, high in ranges], np.int32),
        np.zeros(len(ranges), np.int64),
        1,
    )
    assert received[0] == pytest.approx(naive_attention(closed, ranges), abs=1e-6)


def test_containing_frequency_by_hand() -> None:
    # a b c at 0, a b at 5; candidates: a=0, ab=1, b=2, abc=3, c=4.
    firsts = np.array([0, 0, 0, 1, 2, 5, 5, 6])
    lengths = np.array([1, 2, 3, 1, 1, 1, 2, 1])
    phrases = np.array([0, 1, 3, 2, 4, 0, 1, 2])
    frequencies = np.bincount(phrases)
    assert containing_frequency(firsts, lengths, phrases, frequencies).tolist() == [2, 1, 2, 0, 1]


def features_of(
    text: str, language: str, phrase_counts: PhraseCounts | None, units: Attention
) -> dict[str, dict[str, float]]:
    batch = make_batch([text], [language])
    found = find_candidates(batch)
    scores = textrank.word_scores(batch, TextRankConfig())
    features = keyphrases.candidate_features(found, phrase_counts, make_encoded([units]), scores)
    assert features.has_attention.tolist() == [True]
    keys = found.keys.take(pa.array(found.key_ids)).to_pylist()
    return {
        key: dict(zip(FEATURE_NAMES, features.values[:, i].tolist(), strict=True))
        for i, key in enumerate(keys)
    }


def test_english_features_by_hand() -> None:
    text = "Red graphs, a graph; red graph"
    phrase_counts = make_counts([("red graph", "en", 3, 8), ("graph", "zh", 9, 9)], en=19)
    units = [(0, 3, 1.0), (4, 10, 2.0), (14, 19, 4.0), (21, 30, 8.0)]
    features = features_of(text, "en", phrase_counts, units)
    batch = make_batch([text], ["en"])
    ranks = textrank.word_scores(batch, TextRankConfig())
    rank = dict(zip(ranks.terms.to_pylist(), ranks.scores.tolist(), strict=True))
    graph = rank["graph"] + rank["graphs"]
    assert features == {
        "red graph": pytest.approx(
            {
                "tfidf": math.log(3) * (math.log(20 / 4) + 1),
                "tr10": math.log(100 * (rank["red"] + graph) + 1e-3),
                "att": math.log(11.01),
                "nw": 2.0,
                "nw1": 0.0,
                "trsub": 0.0,
                "rep": 1.0,
                "pos": 0.0,
            }
        ),
        "graph": pytest.approx(
            {
                "tfidf": math.log(2) * (math.log(20 / 2) + 1),
                "tr10": math.log(100 * graph + 1e-3),
                "att": math.log(4.01),
                "nw": 1.0,
                "nw1": 1.0,
                "trsub": 0.0,
                "rep": 0.0,
                # After "Red graphs , a".
                "pos": math.log(1.04),
            }
        ),
    }


def test_chinese_features_by_hand() -> None:
    phrase_counts = make_counts([("图书馆", "zh", 4, 30)], zh=9)
    # Two windows that overlap: the second half stands in both.
    units = [(0, 3, 1.0), (3, 5, 2.0), (3, 5, 4.0)]
    features = features_of("图书馆档案。图书馆", "zh", phrase_counts, units)
    expected = {
        "图书馆": (math.log(3) * (math.log(10 / 5) + 1), math.log(1.01), 1, 1, 1 / 2, 1, 0),
        "图书馆档案": (math.log(2) * (math.log(10 / 2) + 1), math.log(7.01), 2, 0, 0, 0, 0),
        "档案": (math.log(2) * (math.log(10 / 2) + 1), math.log(6.01), 1, 1, 1, 0, math.log(1.01)),
    }
    names = ("tfidf", "att", "nw", "nw1", "trsub", "rep", "pos")
    assert {key: tuple(row[name] for name in names) for key, row in features.items()} == {
        key: pytest.approx(values) for key, values in expected.items()
    }


def test_without_corpus_every_phrase_is_as_rare() -> None:
    features = features_of("red graph, red graph, system", "en", None, [])
    assert features["red graph"]["tfidf"] == pytest.approx(math.log(3))
    assert features["system"]["tfidf"] == pytest.approx(math.log(2))
    assert (features["red graph"]["rep"], features["system"]["rep"]) == (1, 0)


# --- fusion


def naive_scores(
    features: dict[str, dict[str, float]], weights: FeatureWeights
) -> dict[str, float]:
    """Weighted z-scores, as the recipe says it."""
    scores = dict.fromkeys(features, 0.0)
    for name, weight in weights.as_dict().items():
        values = np.array([row[name] for row in features.values()])
        deviation = values.std()
        if deviation > 1e-9:
            unit = max(deviation, 1.0) if name == "pos" else deviation
            for key, value in zip(features, (values - values.mean()) / unit, strict=True):
                scores[key] += weight * value
    return scores


@pytest.mark.parametrize(
    ("text", "language", "name"),
    [
        ("red graph, neural systems, graph, red graph and one town", "en", "english"),
        ("图书馆数字档案。图书馆修复古代文献，读者查阅数字档案", "zh", "chinese"),
    ],
)
@pytest.mark.parametrize("encoded", [True, False])
def test_scores_are_weighted_z_scores(text: str, language: str, name: str, encoded: bool) -> None:
    units = [(start, start + 2, 1.0 + start % 5) for start in range(0, len(text) - 4, 2)]
    features = features_of(text, language, None, units)
    batch = make_batch([text], [language])
    weights = getattr(KeyphraseWeights(), name if encoded else f"{name}_without_attention")
    expected = naive_scores(features, weights)
    result = keywords(
        batch,
        None,
        make_encoded([units]) if encoded else None,
        50,
        word_scores=textrank.word_scores(batch, TextRankConfig()),
    )[0].as_py()
    scores = {
        entry["term"]
        if language == "zh"
        else phrase_lists(make_batch([entry["term"]], ["en"]))[0][0].as_py(): entry["score"]
        for entry in result
    }
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len(result) == len(expected) > 3


def test_attention_decides_for_the_attended_phrase() -> None:
    text = "red graph, blue system, green town"
    start = text.index("blue")
    encoded = make_encoded([[(0, 9, 1.0), (start, start + 11, 9.0), (24, 34, 1.0)]])
    batch = make_batch([text], ["en"])
    assert terms_of(keywords(batch, None, encoded, 3))[0] == "blue system"
    # Without attention the first counts most.
    for nothing in (None, make_encoded([None])):
        shown = terms_of(keywords(batch, None, nothing, 3))
        assert shown == ["red graph", "blue system", "green town"]


def test_keywords_bert_ranks_by_attention() -> None:
    text = "red graph, blue system, green town"
    encoded = make_encoded([[(24, 29, 2.0), (30, 34, 2.5), (0, 9, 3.0)], None])
    result = keywords_bert(make_batch([text, text], ["en", "en"]), encoded, 2)
    assert result.type == schemas.KEYWORDS
    assert result.to_pylist()[1] == []
    first = result.to_pylist()[0]
    assert [entry["term"] for entry in first] == ["green town", "red graph"]
    assert [entry["score"] for entry in first] == pytest.approx([math.log(4.51), math.log(3.01)])


def test_chinese_keywords_bert_discount_longer_phrases() -> None:
    encoded = make_encoded([[(0, 3, 4.0), (3, 5, 1.0)]])
    result = keywords_bert(make_batch(["图书馆档案"], ["zh"]), encoded, 5)[0].as_py()
    scores = {entry["term"]: entry["score"] for entry in result}
    assert scores == pytest.approx(
        {
            "图书馆": math.log(4.01),
            "图书馆档案": math.log(5.01) - math.log(2) / 2,
            "档案": math.log(1.01),
        },
        abs=1e-6,
    )


def test_most_frequent_form_is_shown() -> None:
    text = "Red graph; red graphs, Red  Graphs; red graphs."
    assert terms_of(keywords(make_batch([text], ["en"]), None, None, 5)) == ["red graphs"]
    # The first of equal ones; white space collapsed.
    assert terms_of(keywords(make_batch(["Red \n graphs; red graph"], ["en"]), None, None, 5)) == [
        "Red graphs"
    ]


def test_chinese_is_shown_normalised() -> None:
    assert "gpu集群" in terms_of(keywords(make_batch(["GPU集群"], ["zh"]), None, None, 5))


def test_top_k_keeps_the_first_of_ties_in_term_order() -> None:
    text = "town, apple, graph, zebra"
    weights = KeyphraseWeights(english_without_attention=FeatureWeights(tfidf=1.0))
    for top_k in (1, 2, 4):
        shown = terms_of(keywords(make_batch([text], ["en"]), None, None, top_k, weights))
        assert shown == ["apple", "graph", "town", "zebra"][:top_k]


def test_null_and_poor_rows() -> None:
    batch = make_batch([None, "", "...", "graph", "你好世界"], [None, "en", "zh", "en", "zh"])
    encoded = make_encoded([None, [], [], [(0, 5, 1.0)], None])
    for result in (
        keywords(batch, None, encoded, 3),
        keywords(batch, None, None, 3),
        keywords_bert(batch, encoded, 3),
    ):
        assert result.type == schemas.KEYWORDS
        assert result.to_pylist()[:3] == [None, [], []]
        assert terms_of(result, 3) == ["graph"]
    assert keywords(batch, None, None, 3)[3].as_py()[0]["score"] == 0.0
    empty = batch.slice(0, 0)
    assert len(keywords(empty, None, make_encoded([]), 3)) == 0


def test_wrong_arguments_are_refused() -> None:
    batch = make_batch(["graph"], ["en"])
    with pytest.raises(ValueError, match="top_k"):
        keywords(batch, None, None, 0)
    with pytest.raises(ValueError, match="rows"):
        keywords(batch, None, make_encoded([[], []]), 5)
    encoded = make_encoded([[(0, 1, 1.0)]])
    cut = encoded.set_column(0, "attention_starts", pa.array([[0, 1]], pa.list_(pa.int32())))
    with pytest.raises(ValueError, match="attention_starts"):
        keywords_bert(batch, cut, 5)


WORDS = st.sampled_from(
    [
        "graph",
        "graphs",
        "red",
        "neural",
        "the",
        ".",
        ",",
        "文献",
        "图书馆",
        "的",
        "。",
        "3",
        "learning",
    ]
)


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(
        st.tuples(
            st.lists(WORDS, max_size=20).map(" ".join), st.sampled_from(["zh", "en", "other"])
        ),
        min_size=1,
        max_size=5,
    ),
    data=st.data(),
)
def test_results_do_not_depend_on_the_block(
    documents: list[tuple[str, str]], data: st.DataObject
) -> None:
    texts = [text for text, _ in documents]
    batch = make_batch(list(texts), [language for _, language in documents])
    encoded = make_encoded([[(i, i + 3, 1 / (i + 3)) for i in range(len(text))] for text in texts])
    tables = counts.count_terms(phrase_lists(batch), batch["language"])
    phrase_counts = PhraseCounts.from_counts(tables, {"en": 7, "zh": 3})

    def both(low: int, high: int) -> tuple[pa.ListArray, pa.ListArray]:
        part, attention = batch.slice(low, high - low), encoded.slice(low, high - low)
        scores = textrank.word_scores(part, TextRankConfig())
        fused = keywords(part, phrase_counts, attention, 4, word_scores=scores)
        return fused, keywords_bert(part, attention, 4)

    cut = data.draw(st.integers(0, len(texts)))
    whole, left, right = both(0, len(texts)), both(0, cut), both(cut, len(texts))
    for column in range(2):
        assert pa.concat_arrays([left[column], right[column]]).equals(whole[column])


# --- weights


def test_weights_from_a_file_replace_whole_sets() -> None:
    weights = KeyphraseWeights.from_dict({"english": {"tfidf": 1.0, "nw": -2}})
    assert weights.english == FeatureWeights(tfidf=1.0, nw=-2)
    assert weights.chinese == KeyphraseWeights().chinese
    assert KeyphraseWeights.from_dict(weights.as_dict()) == weights


@pytest.mark.parametrize(
    "values",
    [
        {"klingon": {}},
        {"english": {"length": 1.0}},
        {"english": {"tfidf": "1"}},
        {"english": {"tfidf": math.nan}},
        {"english": 3},
    ],
)
def test_wrong_weights_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="keyword_weights"):
        KeyphraseWeights.from_dict(values)


def test_given_weights_are_used() -> None:
    batch = make_batch(["graph, red graph, red graph"], ["en"])
    for weight, best in ((1.0, "red graph"), (-1.0, "graph")):
        only = FeatureWeights(nw=weight)
        weights = KeyphraseWeights(english_without_attention=only)
        assert terms_of(keywords(batch, None, None, 1, weights=weights)) == [best]


# --- real text


def stemmed(text: str) -> str:
    return " ".join(map(stem, text.lower().split()))


def test_agrees_with_readers_without_bert(shared_corpora: Path) -> None:
    with (shared_corpora / "en_semeval2017.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:150]
    batch = make_batch([row["text"] for row in rows], ["en"] * len(rows))
    tables = counts.count_terms(phrase_lists(batch), batch["language"])
    phrase_counts = PhraseCounts.from_counts(tables, {"en": len(rows)})
    scores = textrank.word_scores(batch, TextRankConfig())
    result = keywords(batch, phrase_counts, None, 10, word_scores=scores)
    f_scores = []
    for row, found in zip(rows, result.to_pylist(), strict=True):
        gold = {stemmed(keyword) for keyword in row["keywords"]}
        hits = sum(stemmed(entry["term"]) in gold for entry in found)
        f_scores.append(2 * hits / (len(gold) + len(found)))
    # The whole set gives .30; the first ten phrases of a text give .20.
    assert np.mean(f_scores) > 0.26


def test_phrase_counts_equal_a_plain_count(shared_corpora: Path) -> None:
    with (shared_corpora / "zh_csl_dev.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(40), strict=False)]
    lists = phrase_lists(make_batch(list(texts), ["zh"] * len(texts)))
    for text, keys in zip(texts, lists.to_pylist(), strict=True):
        tokens = TOKENIZER.tokenize([text], ["zh"])
        assert Counter(keys) == plain_chinese_candidates(text, tokens)


def plain_chinese_candidates(text: str, tokens: pa.RecordBatch) -> Counter[str]:
    """The rule of Chinese candidates in plain loops."""
    words, kinds, starts, ends = (column[0].as_py() for column in tokens.columns)
    inside = (schemas.TERM, schemas.WORD, schemas.NUMBER)

    def is_han(character: str) -> bool:
        return "\u4e00" <= character <= "\u9fff"

    counted: Counter[str] = Counter()
    for first in range(len(words)):
        tag = load_tags().get(words[first], "n")
        if kinds[first] not in (schemas.TERM, schemas.WORD) or tag[0] in "mqfd":
            continue
        key = ""
        for last in range(first, min(first + 4, len(words))):
            if kinds[last] not in inside:
                break
            if last > first and starts[last] > ends[last - 1]:
                if is_han(words[last - 1][-1]) and is_han(words[last][0]):
                    break
                key += " "
            key += words[last]
            if ends[last] - starts[first] >= 2:
                counted[key] += 1
    return counted
