"""Division of texts that are not Chinese: equal to the rule, written as one expression."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import characters, word_kernels
from lexbeam.models.characters import class_table
from lexbeam.models.segment import code_points

HAN = "\u2e80-\u2fd5\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
SCRIPTS = {
    "han": HAN + "\U00020000-\U0003ffff",
    "hiragana": "\u3041-\u3096\u3099\u309a\u309d-\u309f",
    "katakana": "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "hangul": "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb\uffa0-\uffdc",
}


def piece_pattern() -> re.Pattern[str]:
    """The rule: the next piece of a text; every character is in some piece."""
    marks = "".join(
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)).startswith("M")
    )
    letter, mark = f"[^\\W_{''.join(SCRIPTS.values())}]", f"[{marks}]"
    word = f"{letter}++(?:{mark}{letter}*+)*+"
    joint = "(?:_+|\\+\\+|[-'’/&.+\u200c\u200d])"
    pieces = (
        f"[A-Za-z]{{1,2}}(?:\\+\\+|#)(?!{letter}|{mark})",
        r"[0-9]++(?:,[0-9]{3})++(?![0-9])(?:\.[0-9]++)?%?",
        r"[0-9]++(?:\.[0-9]++)?%",
        f"{word}(?:{joint}{word})*+",
        r"\s++",
        *(f"[{script}]++" for script in SCRIPTS.values()),
        *(f"{re.escape(punctuation)}++" for punctuation in string.punctuation),
        "(?s:.)",
    )
    return re.compile("|".join(pieces))


PATTERN = piece_pattern()
TEXTS = st.one_of(
    st.text(),
    st.text("aZ09,.%+#_-'’/&+ \n\u200d\u0301é中のアー한\u3099\u30fcﾊﾟ…", max_size=30),
    st.text("019,.%", max_size=14),
    st.text("aB+#_.1", max_size=10),
    st.lists(
        st.sampled_from(
            "C++ F# a++b C#x AB## 1,000 1,000.5% 12,34 1,0000 3.5% 3.% don't __x__ a--b U.S. "
            "state-of-the-art AT&T été 中国 カタカナ".split()
        ),
        max_size=8,
    ).map("".join),
)


def divided(texts: list[str], rule: int) -> tuple[list[list[str]], list[bool]]:
    """Pieces of each text, and whether each piece is Chinese."""
    offsets = np.cumsum([0, *map(len, texts)])
    rules = np.full(len(texts), rule, np.int8)
    counts, ends, is_chinese = word_kernels.divide_texts(
        code_points("".join(texts)), offsets, rules, class_table()
    )
    whole = "".join(texts)
    stops = [0, *ends.tolist()]
    pieces = [whole[start:end] for start, end in zip(stops, stops[1:], strict=False)]
    grouped = [pieces[first:last] for first, last in zip(counts, counts[1:], strict=False)]
    return grouped, is_chinese.tolist()


@settings(deadline=None, max_examples=400)
@given(TEXTS)
def test_equals_the_expression(text: str) -> None:
    (pieces,), is_chinese = divided([text], word_kernels.OTHER)
    assert pieces == PATTERN.findall(text)
    assert not any(is_chinese)


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_texts_do_not_touch_each_other(texts: list[str]) -> None:
    assert divided(texts, word_kernels.OTHER)[0] == [PATTERN.findall(text) for text in texts]


@pytest.mark.parametrize("name", ["en_bbc_news", "en_peps100", "en_inspec", "zh_d2l"])
def test_equals_the_expression_on_the_corpora(shared_corpora: Path, name: str) -> None:
    lines = (shared_corpora / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    texts = [json.loads(line)["text"] for line in lines]
    assert divided(texts, word_kernels.OTHER)[0] == [PATTERN.findall(text) for text in texts]


def test_han_is_left_to_the_dictionary() -> None:
    (pieces,), is_chinese = divided(["the 机器学习 of 東京タワー"], word_kernels.ENGLISH)
    assert pieces == ["the", " ", "机器学习", " ", "of", " ", "東京", "タワー"]
    assert is_chinese == [False, False, True, False, False, False, True, False]
    (pieces,), is_chinese = divided(["the 机器 x"], word_kernels.CHINESE)
    assert (pieces, is_chinese) == (["the 机器 x"], [True])


def test_classes_are_those_of_python() -> None:
    table = class_table()
    for bit, ranges in zip(
        (characters.HAN, characters.HIRAGANA, characters.KATAKANA, characters.HANGUL),
        SCRIPTS.values(),
        strict=True,
    ):
        found = np.zeros(len(table), np.bool_)
        for run in re.finditer(f"[{ranges}]+", "".join(map(chr, range(len(table))))):
            found[run.start() : run.end()] = True
        assert np.array_equal(table & bit != 0, found)
    for code in range(len(table)):
        character = chr(code)
        is_mark = unicodedata.category(character).startswith("M")
        assert bool(table[code] & characters.MARK) == is_mark
        assert bool(table[code] & characters.SPACE) == bool(re.match(r"\s", character))
        is_east_asian = bool(table[code] & (32 | 64 | 128 | 256))
        is_letter = character.isalnum() and not is_east_asian
        assert bool(table[code] & characters.LETTER) == is_letter
