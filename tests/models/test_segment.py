"""Segmenting: equal to jieba, token for token, on anything, with and without a user dictionary."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lexbeam.models import jieba_data, segment, segment_kernels
from lexbeam.models.config import ConfigError
from lexbeam.models.jieba_data import load_tags
from lexbeam.models.segment import Segmenter, build_model, code_points, cut_text
from lexbeam.models.user_dict import read_user_dict

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

ALPHABETS = [
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工能学"
    "法经十三进部度家电力水化高自理起小物现实量体制机点业本性好应开合还因由其些前天政日社义",
    "aAbBzZ09.%_-+#& ",
    "\r\n\t \u3000\u2028\x00\x0b\x1c",
    "，。！？《》…·、",
    "あいのアンー한국",
    "㐀䶿\u4e00龥\u9fd5\u9fd6\u9fff豈\uf900\ufaff𠀀𪛟𫝀\U00030000〇々",
    "ＡｂＣ１．％",
    "😀👍🏽\u200d\ufe0f\ufdd0\ue000\ue001",
    "魑魅魍魉饕餮龘靐齉爨釚踁懡稛",
]
WORDS = [
    "T恤",
    "T恤衫",
    "AT&T",
    "C++",
    "c#",
    "IP地址",
    "小S",
    "阿Q",
    "γ射线",
    "B超",
    "3.14",
    "v1.2_a-b",
]
MIXED = st.lists(
    st.one_of(*(st.text(letters, min_size=1, max_size=5) for letters in ALPHABETS)), max_size=12
)
TEXTS = st.one_of(
    MIXED.map("".join),
    st.lists(st.one_of(st.sampled_from(WORDS), MIXED.map("".join)), max_size=5).map("".join),
    st.text(),
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FD5), max_size=30),
)


@pytest.fixture(scope="module")
def finalseg() -> Any:
    """The module of jieba that divides runs of unknown characters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from jieba import finalseg
    return finalseg


@pytest.fixture(scope="module")
def make_jieba(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Any]:
    """Makes tokenizers of jieba, each with its own copy of the dictionary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel(60)
    plain = jieba.Tokenizer()
    plain.cache_file = str(tmp_path_factory.mktemp("jieba") / "jieba.cache")
    plain.initialize()

    def make(user_dict: str | None = None) -> Any:
        tokenizer = jieba.Tokenizer()
        tokenizer.FREQ, tokenizer.total, tokenizer.initialized = dict(plain.FREQ), plain.total, True
        if user_dict:
            with open(user_dict, "rb") as file:
                tokenizer.load_userdict(file)
        return tokenizer

    return make


@pytest.fixture(scope="module")
def jieba_cut(make_jieba: Callable[[str | None], Any]) -> Callable[[str], list[str]]:
    cut: Callable[[str], list[str]] = make_jieba(None).lcut
    return cut


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("我来到北京清华大学", ["我", "来到", "北京", "清华大学"]),
        ("他来到了网易杭研大厦", ["他", "来到", "了", "网易", "杭研", "大厦"]),
        ("v1.2_a-b", ["v1.2", "_", "a", "-", "b"]),
        ("3.14abc 50%% a.b", ["3.14", "abc", " ", "50%", "%", " ", "a", ".", "b"]),
        ("AT&T的T恤\r\nC++", ["AT&T", "的", "T恤", "\r\n", "C++"]),
        ("𠀀𠀁鿿鿖", ["𠀀", "𠀁", "鿿", "鿖"]),
        ("\x00\n\n", ["\x00", "\n", "\n"]),
    ],
)
def test_hand_made_examples(segmenter: Segmenter, text: str, words: list[str]) -> None:
    assert segmenter.cut(text) == words


def test_a_near_tie_of_the_model(
    segmenter: Segmenter, jieba_cut: Callable[[str], list[str]]
) -> None:
    # With probabilities of six digits the first two characters would be a word.
    assert segmenter.cut("常在梦中为死去") == jieba_cut("常在梦中为死去")
    assert segmenter.cut("常在梦中为死去")[0] == "常"


@QUICK
@given(text=TEXTS)
def test_equals_jieba_on_any_text(
    segmenter: Segmenter, jieba_cut: Callable[[str], list[str]], text: str
) -> None:
    words = segmenter.cut(text)
    assert words == jieba_cut(text)
    assert "".join(words) == text


def _contents(path: Path, step: int) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 0, None, step)]
    return [f"{row.get('title', '')}\n{row['text']}" for row in rows]


@pytest.mark.parametrize(
    ("name", "step"),
    [("zh_csl_dev", 4), ("zh_thucnews800", 10), ("zh_d2l", 20), ("en_bbc_news", 40)],
)
def test_equals_jieba_on_a_sample_of_the_corpora(
    segmenter: Segmenter,
    jieba_cut: Callable[[str], list[str]],
    shared_corpora: Path,
    name: str,
    step: int,
) -> None:
    for content in _contents(shared_corpora / f"{name}.jsonl", step):
        assert segmenter.cut(content) == jieba_cut(content)


@pytest.mark.slow
def test_equals_jieba_on_the_corpora(
    segmenter: Segmenter, jieba_cut: Callable[[str], list[str]], shared_corpora: Path
) -> None:
    paths = sorted(shared_corpora.glob("*.jsonl"))
    assert paths
    for content in itertools.chain.from_iterable(_contents(path, 1) for path in paths):
        assert segmenter.cut(content) == jieba_cut(content)


def test_the_model_is_that_of_jieba(finalseg: Any) -> None:
    initial, transition, emission = jieba_data.load_model()
    for row, state in enumerate("BEMS"):
        assert initial[row] == finalseg.start_P[state]
        for column, target in enumerate("BEMS"):
            known = finalseg.trans_P[state].get(target, finalseg.MIN_FLOAT)
            assert transition[row, column] == known
        for code in range(segment_kernels.HAN_MIN, segment_kernels.HAN_MAX + 1):
            known = finalseg.emit_P[state].get(chr(code), finalseg.MIN_FLOAT)
            assert emission[code - segment_kernels.HAN_MIN, row] == known


@pytest.fixture(scope="module")
def unknown_words() -> segment_kernels.WordModel:
    """A model without any word: everything is left to the Markov model."""
    keys = np.zeros(2, np.uint64)
    return segment_kernels.WordModel(
        keys,
        np.full(2, segment_kernels.BEGINNING),
        segment_kernels.first_nodes(keys),
        np.full(segment_kernels.HAN_MAX + 1, segment_kernels.BEGINNING),
        0.0,
        *jieba_data.load_model(),
        False,
    )


@QUICK
@given(st.text(st.sampled_from("常在梦中为去杭研魑魅釚龘稛\u9fd5aZ09.%-"), min_size=2, max_size=12))
def test_compiled_model_equals_jieba(
    finalseg: Any, unknown_words: segment_kernels.WordModel, run: str
) -> None:
    assert cut_text(run, unknown_words, with_unknown=True) == list(finalseg.cut(run))


def test_of_equal_routes_the_one_of_longer_words_wins(
    make_jieba: Callable[[str | None], Any],
) -> None:
    words = ("甲", "乙", "丙", "甲乙", "乙丙", "甲乙丙丁", "丁")
    # Every word has probability 1, so that all routes have the same.
    expected = make_jieba(None)
    expected.FREQ, expected.total = dict.fromkeys(words, 1) | {"甲乙丙": 0}, 1
    keys = np.zeros(64, np.uint64)
    offsets = np.cumsum([0, *map(len, words)])
    nodes = segment_kernels.insert_words(keys, code_points("".join(words)), offsets)
    log_frequencies = np.full(len(keys), segment_kernels.BEGINNING)
    log_frequencies[nodes] = 0.0
    firsts = segment_kernels.first_nodes(keys)
    singles = np.where(firsts < 0, segment_kernels.BEGINNING, log_frequencies[firsts])
    model = segment_kernels.WordModel(
        keys, log_frequencies, firsts, singles, 0.0, *jieba_data.load_model(), False
    )
    for text in ("甲乙丙", "甲乙丙丁", "乙丙丁甲乙", "丙甲乙丙丁丁"):
        words_found = cut_text(text, model, with_unknown=False)
        assert words_found == list(expected.cut(text, HMM=False))


@QUICK
@given(texts=st.lists(TEXTS, max_size=5), at_once=st.integers(1, 20))
def test_all_texts_are_cut_as_each_alone(
    segmenter: Segmenter, texts: list[str], at_once: int
) -> None:
    with mock.patch.object(segment, "_CODES_AT_ONCE", at_once):
        assert segmenter.cut_all(texts) == [segmenter.cut(text) for text in texts]


@QUICK
@given(texts=st.lists(TEXTS, max_size=5))
def test_many_texts_at_once(segmenter: Segmenter, texts: list[str]) -> None:
    codes = code_points("".join(texts))
    ends = np.cumsum([len(text) for text in texts], dtype=np.int32)
    spans = np.arange(len(texts) + 1), ends, np.ones(len(texts), np.bool_)
    offsets, word_ends = segment_kernels.cut_spans(codes, *spans, segmenter.model, True)
    words = np.diff(word_ends, prepend=0).tolist()
    pieces = np.split(words, offsets[1:-1]) if texts else []
    assert [piece.tolist() for piece in pieces] == [
        [len(word) for word in segmenter.cut(text)] for text in texts
    ]


def test_without_unknown_words_equals_jieba(
    make_jieba: Callable[[str | None], Any], segmenter: Segmenter, shared_corpora: Path
) -> None:
    expected = make_jieba(None)
    for content in _contents(shared_corpora / "zh_thucnews800.jsonl", 40):
        words = cut_text(content, segmenter.model, with_unknown=False)
        assert words == list(expected.cut(content, HMM=False))


USER_DICTS = {
    "frequency": "机器学习算法 1000 n\n量子纠缠 5 nz\n",
    "no frequency": "机器学习算法\n量子纠缠 nz\n之词典\n研大\nB\nXB超\n",
    "order": "云计\n云计算平台\n云计算平台 3 n\n云计 2000\n",
    "redefined": "北京 1 ns\n清华大学 2 nt\n北京 500000 ns\n",
    "ASCII": "v1.2_a 3 n\nGPT-4 nz\nPyTorch 10\nabc\nlexbeam大厦 3 n\nC\n",
    "heavy letters": "C 900000000 n\nCC 5 n\nA 100000 n\nCCA\n- 50000000\n",
    "bytes and blanks": "\ufeff深度学习 100 n\r\n\r\n   \n  图网络 20\n\ufeff强化 7",
    "spaces": "machine learning 5 n\n深度 学习\n数据 9 9 n\n词 N\n",
    "taken out": "清华大学 0\n大厦 0\n杭研 0\n之词 0\n学习 0 n\n好词 0\n好词 9\n",
    "rare characters": "𠀀字 50 n\n鿿鿖\n々人\n魑魅魍魉们\n",
}
USER_TEXTS = [
    "机器学习算法与量子纠缠在云计算平台上，研究北京清华大学的之词典和网易杭研大厦",
    "v1.2_a-b v1.2_ac GPT-4和GPT-4.5 PyTorch aPyTorch abc abcabc 3.abc XB超 B超 lexbeam大厦",
    "CC C CCC C-C A股 A座 CCA ACC a-C-A C语言 C++ C盘 深度 学习 深度学习图网络强化 数据",
    "𠀀字鿿鿖々人魑魅魍魉们machine learning",
]


@pytest.mark.parametrize("name", USER_DICTS)
def test_user_dictionary_equals_jieba(
    make_jieba: Callable[[str | None], Any],
    finalseg: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
) -> None:
    # Words that are taken out stand in a set of the module, whatever the tokenizer.
    monkeypatch.setattr(finalseg, "Force_Split_Words", set())
    path = tmp_path / "user.txt"
    path.write_bytes(USER_DICTS[name].encode())
    expected = make_jieba(str(path))
    segmenter = Segmenter(str(path))
    for text in (*USER_TEXTS, "".join(USER_TEXTS)):
        assert segmenter.cut(text) == expected.lcut(text)
    for word, tag in expected.user_word_tag_tab.items():
        assert segmenter.dictionary_tag(word) == tag


@settings(QUICK, max_examples=8)
@given(
    st.lists(
        st.tuples(
            st.text("北京大学生C-4.a会议", min_size=1, max_size=4),
            st.one_of(st.none(), st.integers(0, 10), st.integers(1, 10**9)),
        ),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.text("北京大学生C-4.a会议 的", max_size=12), min_size=5, max_size=20),
)
def test_any_user_dictionary_equals_jieba(
    make_jieba: Callable[[str | None], Any],
    finalseg: Any,
    tmp_path: Path,
    words: list[tuple[str, int | None]],
    texts: list[str],
) -> None:
    path = tmp_path / "user.txt"
    lines = (word if frequency is None else f"{word} {frequency}" for word, frequency in words)
    finalseg.Force_Split_Words.clear()
    path.write_text("\n".join(lines), encoding="utf-8")
    expected = make_jieba(str(path))
    segmenter = Segmenter(str(path))
    for text in texts:
        assert segmenter.cut(text) == expected.lcut(text)


def test_a_user_word_changes_the_words(tmp_path: Path) -> None:
    path = tmp_path / "user.txt"
    path.write_text("网易杭研大厦 5 nt\n", encoding="utf-8")
    assert Segmenter(str(path)).cut("他来到了网易杭研大厦") == ["他", "来到", "了", "网易杭研大厦"]
    # The next segmenter knows nothing of it.
    assert Segmenter().cut("他来到了网易杭研大厦")[-1] == "大厦"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("好词 3 n\n".encode() + b"\xff\xfe 3 n\n", "line 2 is not UTF-8"),
        ("词\t5\tn\n".encode(), "line 1 holds a control character"),
        ("好词\n坏\x00词\n".encode(), "line 2 holds a control character"),
        ("\n\n好词 99999999999999999999\n".encode(), "line 3: the frequency is too large"),
    ],
)
def test_malformed_user_dictionary(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "user.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        Segmenter(str(path))
    assert caught.value.option == "user_dict"
    assert caught.value.value == str(path)


def test_unreadable_user_dictionary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Segmenter(str(tmp_path / "missing.txt"))
    with pytest.raises(ConfigError, match="cannot be read"):
        Segmenter(str(tmp_path))


def test_frequencies_that_sum_up_to_too_much(tmp_path: Path) -> None:
    path = tmp_path / "user.txt"
    path.write_text(f"甲乙 {2**52}\n丙丁 {2**52 + 1}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2: the frequencies sum up"):
        Segmenter(str(path))
    path.write_text(f"甲乙 {2**53 - 1}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1: the frequencies sum up"):
        Segmenter(str(path)).cut("甲乙")  # with those of the dictionary


def test_read_user_dict_follows_the_format(tmp_path: Path) -> None:
    path = tmp_path / "user.txt"
    path.write_bytes("\ufeff深度 学习 12 nz\r\n\n词典 n\n单词 7\n大写 3 N".encode())
    words = [(w.line, w.word, w.frequency, w.tag) for w in read_user_dict(str(path))[1]]
    assert words == [
        (1, "深度 学习", 12, "nz"),
        (3, "词典", None, "n"),
        (4, "单词", 7, None),
        (5, "大写 3 N", None, None),
    ]


def test_tags(tmp_path: Path) -> None:
    path = tmp_path / "user.txt"
    path.write_text("北京 5 xx\n清华大学 5\n", encoding="utf-8")
    segmenter = Segmenter(str(path))
    assert load_tags()["北京"] == "ns"
    assert [segmenter.dictionary_tag(word) for word in ("北京", "清华大学", "没有的词")] == [
        "xx",
        "nt",
        None,
    ]
    assert load_tags() is load_tags()
    assert len(load_tags()) > 300_000


def test_fingerprint_depends_on_content_not_on_path(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    first.write_text("词 5\n", encoding="utf-8")
    second.write_text("词 5\n", encoding="utf-8")
    other.write_text("词 6\n", encoding="utf-8")
    prints = [Segmenter(str(path)).fingerprint() for path in (first, second, other)]
    assert prints[0] == prints[1]
    assert len({*prints, Segmenter().fingerprint()}) == 3
    assert all(len(value) == 64 for value in prints)


def test_survives_pickling(tmp_path: Path) -> None:
    path = tmp_path / "user.txt"
    path.write_text("网易杭研 5\n", encoding="utf-8")
    segmenter = Segmenter(str(path))
    words = segmenter.cut("网易杭研大厦")
    assert pickle.loads(pickle.dumps(segmenter)).cut("网易杭研大厦") == words


def test_total_is_that_of_jieba(make_jieba: Callable[[str | None], Any]) -> None:
    # The dictionary has one word twice: jieba's total counts both lines.
    total = make_jieba(None).total
    assert build_model("", ()).log_total == math.log(total)
    table = jieba_data.read_dictionary().to_pydict()
    distinct = sum(dict(zip(table["word"], table["frequency"], strict=True)).values())
    assert math.log(total) != math.log(distinct)
