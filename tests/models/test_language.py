"""Language detection: each step of the rule, and every document of the real corpora."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models.language import count_letters, detect_language, detect_languages

FRENCH = (
    "Le président a déclaré hier que les élections auront lieu à la fin de l'année, et que "
    "l'État prendra des mesures nécessaires pour protéger les électeurs de chaque région."
)
VIETNAMESE = (
    "Tiếng Việt là ngôn ngữ của người Việt và là ngôn ngữ chính thức tại Việt Nam, được nhiều "
    "người nói và viết bằng chữ Quốc ngữ với các dấu thanh."
)
ENGLISH_WITH_ACCENTS = (
    "The café on the corner of the plaza in São Paulo was a favourite of the naïve painter, and "
    "it is said that he would sit there for hours with his fiancée and not say a word."
)
CODE = "from torch import nn; net = nn.Sequential(nn.Linear(784, 256), nn.ReLU()) "


@pytest.mark.parametrize(
    ("content", "language"),
    [
        ("", "other"),
        ("2024-05-01 12:30 !!! 100%", "other"),
        ("😀👍🏽❤️", "other"),
        ("我们研究机器学习。", "zh"),
        ("我們研究機器學習與資料庫。", "zh"),
        ("AI 中国", "zh"),
        ("𠀀𠀁", "zh"),
        ("A plain sentence.", "en"),
        ("ＦＵＬＬ　ＷＩＤＴＨ", "en"),
        ("東京は日本の首都であり、世界最大の都市です。", "other"),
        ("カタカナ", "other"),
        ("대한민국의 수도는 서울이다.", "other"),
        ("Привет, мир", "other"),
        ("مرحبا بالعالم", "other"),
        ("Καλημέρα κόσμε", "other"),
        ("हिन्दी में लिखा", "other"),
        (FRENCH, "other"),
        (VIETNAMESE, "other"),
        (ENGLISH_WITH_ACCENTS, "en"),
        ("Crème brûlée", "en"),  # too short to tell
        ("我在那家の字招牌的小店里买了很多好吃的东西，明天还要去那里", "zh"),
        (CODE * 2 + "我们定义一个包含两层的多层感知机模型", "zh"),
        (CODE * 6 + "我们定义一个包含两层的多层感知机", "zh"),  # 5 % Han, no English prose
        ("The word 茶 is the name of the tea that they have in most of China. " * 3, "en"),
        ("The film 七人の侍 of 1954 is one of the best that he has made in his career.", "en"),
    ],
)
def test_each_step_of_the_rule(content: str, language: str) -> None:
    assert detect_language(content) == language


def test_count_letters_by_class() -> None:
    # None: two spaces, a digit, U+10FFFF; ASCII: with full-width B; Han: with U+20000.
    counts = count_letters("aＢ é汉字のア한 1Ж\U0010ffff𠀀")
    assert counts.tolist() == [4, 2, 1, 3, 3, 1]


@given(st.text())
def test_any_text_has_a_language(content: str) -> None:
    language = detect_language(content)
    assert language in ("zh", "en", "other")
    if not any(map(str.isalpha, content)):
        # U+30000 and beyond are Han to the table before Python knows them as letters.
        assert language == "other" or max(content) >= "\U00020000"


@settings(deadline=None)
@given(st.lists(st.none() | st.text() | st.text("the of é 中の한a", max_size=90), max_size=5))
def test_many_at_once_are_judged_one_by_one(contents: list[str | None]) -> None:
    expected = [None if content is None else detect_language(content) for content in contents]
    assert detect_languages(pa.array(contents, pa.string())) == expected


@given(st.text(st.characters(codec="utf-8", max_codepoint=0x2FFFF)))
def test_classes_add_up(content: str) -> None:
    counts = count_letters(content)
    assert counts.sum() == len(content)
    han = sum("\u4e00" <= character <= "\u9fff" for character in content)
    assert counts[3] >= han


@pytest.mark.parametrize("name", ["en_inspec", "en_bbc_news", "en_semeval2017", "en_peps100"])
def test_english_corpora(shared_corpora: Path, name: str) -> None:
    lines = (shared_corpora / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert [text[:80] for text in texts if detect_language(text) != "en"] == []


@pytest.mark.parametrize("name", ["zh_csl_dev", "zh_thucnews800", "zh_d2l"])
def test_chinese_corpora(shared_corpora: Path, name: str) -> None:
    lines = (shared_corpora / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    # Some chapters of one corpus, and an abstract of another, are in English; a table of
    # contents has a Chinese title (1 % of its letters) and nothing else.
    han = [int(count_letters(text)[3]) for text in texts]
    letters = [int(count_letters(text)[1:].sum()) for text in texts]
    wrong = [
        text[:80]
        for text, count, total in zip(texts, han, letters, strict=True)
        if detect_language(text) != ("zh" if count > 0.02 * total else "en")
    ]
    assert wrong == []
