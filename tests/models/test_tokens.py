"""Tokens: division, offsets, normal form and kinds, one document alone and among others."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import piece_table
from lexbeam.models.config import ConfigError, TextConfig
from lexbeam.models.schemas import (
    NUMBER,
    PUNCTUATION,
    SENTENCE_END,
    STOP,
    TERM,
    TOKEN_FIELDS,
    WORD,
)
from lexbeam.models.segment import Segmenter
from lexbeam.models.tokens import MAX_TERM_LENGTH, Tokenizer, normalise

QUICK = settings(deadline=None)
Token = tuple[str, int, int, int]

CONTENTS = st.one_of(
    st.text(),
    st.text(
        st.sampled_from(
            "中国人的。！？…；，ＡＢ１aBc019.'’-_/&+#%,!?\"()  \n\r\t\u3000\u2028\x00\x1c\x85"
            "éßİ\u0301\u0930\u093fのアー한글々〇㐀𠀀ﷺ¨ﬁ㎏😀\u200d\ufe0f\ufdd0"
        ),
        max_size=40,
    ),
    st.lists(
        st.sampled_from(
            "C++ C# don't AT&T U.S.A. state-of-the-art 1,000 3.5% v1.2_a __init__ x--y 机器学习 "
            "T恤 东京タワー Ⅳ ½ ...".split()
        )
    ).map(" ".join),
)
LANGUAGES = st.sampled_from(["zh", "en", "other"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TextConfig())


def rows(batch: pa.RecordBatch) -> list[list[Token] | None]:
    """A list of (token, kind, start, end) for each document."""
    columns = batch.to_pydict()
    values = zip(*(columns[name] for name in ("tokens", "kinds", "starts", "ends")), strict=True)
    return [None if row[0] is None else list(zip(*row, strict=True)) for row in values]


def one(tokenizer: Tokenizer, content: str, language: str) -> list[Token]:
    (row,) = rows(tokenizer.tokenize([content], [language]))
    assert row is not None
    return row


def texts(row: list[Token]) -> list[str]:
    return [token[0] for token in row]


def kinds(row: list[Token]) -> dict[str, int]:
    return {token: kind for token, kind, _, _ in row}


def test_columns_are_those_of_the_schema(tokenizer: Tokenizer) -> None:
    by_name = {field.name: field for field in TOKEN_FIELDS}
    names = ("tokens", "kinds", "starts", "ends")
    expected = pa.schema([by_name[name] for name in names])
    for contents in ([], [None], ["a 中"], [""], [None, "x", None]):
        batch = tokenizer.tokenize(contents, ["zh"] * len(contents))
        assert batch.schema.equals(expected)
        assert batch.num_rows == len(contents)
        batch.validate(full=True)
        for column in batch.columns:
            assert [value is None for value in column.to_pylist()] == [c is None for c in contents]


def test_a_chinese_document(tokenizer: Tokenizer) -> None:
    content = "我们在清华大学用Ｃ＋＋写了v1.2_a。\r\n 好！"
    assert one(tokenizer, content, "zh") == [
        ("我们", STOP, 0, 2),
        ("在", STOP, 2, 3),
        ("清华大学", TERM, 3, 7),
        ("用", STOP, 7, 8),
        ("c", WORD, 8, 9),
        ("+", PUNCTUATION, 9, 10),
        ("+", PUNCTUATION, 10, 11),
        ("写", WORD, 11, 12),
        ("了", STOP, 12, 13),
        ("v1.2", TERM, 13, 17),
        ("_", PUNCTUATION, 17, 18),
        ("a", STOP, 18, 19),
        ("。", SENTENCE_END, 19, 20),
        ("\n", SENTENCE_END, 20, 23),
        ("好", kinds(one(tokenizer, "好", "zh"))["好"], 23, 24),
        ("!", SENTENCE_END, 24, 25),
    ]


def test_an_english_document(tokenizer: Tokenizer) -> None:
    content = "The C++  parser\tdidn't fail.\n\nIt's 3.5% of 1,000 (x--y)."
    assert one(tokenizer, content, "en") == [
        ("the", STOP, 0, 3),
        ("c++", TERM, 4, 7),
        ("parser", TERM, 9, 15),
        ("didn't", STOP, 16, 22),
        ("fail", TERM, 23, 27),
        (".", SENTENCE_END, 27, 28),
        ("\n", SENTENCE_END, 28, 30),
        ("it's", STOP, 30, 34),
        ("3.5%", NUMBER, 35, 39),
        ("of", STOP, 40, 42),
        ("1,000", NUMBER, 43, 48),
        ("(", PUNCTUATION, 49, 50),
        ("x", one(tokenizer, "x", "en")[0][1], 50, 51),
        ("--", PUNCTUATION, 51, 53),
        ("y", one(tokenizer, "y", "en")[0][1], 53, 54),
        (")", PUNCTUATION, 54, 55),
        (".", SENTENCE_END, 55, 56),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("state-of-the-art", ["state-of-the-art"]),
        ("AT&T TCP/IP R&D", ["at&t", "tcp/ip", "r&d"]),
        ("rock’n’roll", ["rock’n’roll"]),
        ("snake_case a__b __init__", ["snake_case", "a__b", "__", "init", "__"]),
        ("-x- 'y' .NET e.g.", ["-", "x", "-", "'", "y", "'", ".", "net", "e.g", "."]),
        ("wait...what a--b", ["wait", "...", "what", "a", "--", "b"]),
        ("C++11 C++, C# F#m Q#", ["c++11", "c++", ",", "c#", "f", "#", "m", "q#"]),
        ("abc++ abc#", ["abc", "++", "abc", "#"]),
        ("10.5GHz 2nd 1,0000 50%-60%", ["10.5ghz", "2nd", "1", ",", "0000", "50%", "-", "60%"]),
        ("cafe\u0301 हिन्दी", ["café", "हिन्दी"]),
        ("naïve Straße", ["naïve", "straße"]),
        ("$$$?!", ["$$$", "?", "!"]),
        ("😀😀", ["😀", "😀"]),
        ("the机器学习model", ["the", "机器", "学习", "model"]),
        ("ひらカタ", ["ひら", "カタ"]),
    ],
)
def test_division_of_english(tokenizer: Tokenizer, content: str, expected: list[str]) -> None:
    assert texts(one(tokenizer, content, "en")) == expected


def test_division_of_other_languages(tokenizer: Tokenizer) -> None:
    content = "東京タワーは高いPython3の本です。서울의 봄 Привет-мир"
    expected = "東京 タワー は 高 い python3 の 本 です 。 서울의 봄 привет-мир".split()
    assert texts(one(tokenizer, content, "other")) == expected


@pytest.mark.parametrize(
    ("content", "language", "kind"),
    [
        ("12", "en", NUMBER),
        ("１", "zh", NUMBER),
        ("１２", "en", NUMBER),
        ("50%", "zh", NUMBER),
        ("٣", "other", NUMBER),
        ("①", "en", NUMBER),
        ("一百", "zh", TERM),
        ("〇", "zh", WORD),
        ("Ⅳ", "en", TERM),
        ("q", "other", WORD),
        ("葡", "zh", WORD),
        ("葡萄", "zh", TERM),
        ("x" * MAX_TERM_LENGTH, "en", TERM),
        ("x" * (MAX_TERM_LENGTH + 1), "en", WORD),
        ("\ufdfa", "en", WORD),  # four words after NFKC
        ("\u00a8", "en", PUNCTUATION),  # a space and a mark
        ("\x00", "zh", PUNCTUATION),
        ("\ufeff", "en", PUNCTUATION),
        ("_", "zh", PUNCTUATION),
        ("😀", "zh", PUNCTUATION),
        ("。", "zh", SENTENCE_END),
        ("？", "en", SENTENCE_END),
        ("；", "zh", SENTENCE_END),
        ("…", "zh", SENTENCE_END),
        ("....", "en", SENTENCE_END),
        ("，", "zh", PUNCTUATION),
        ("\u2028", "en", SENTENCE_END),
        ("the", "en", STOP),
        ("The", "other", STOP),
        ("ＴＨＥ", "en", STOP),
        ("的", "zh", STOP),
        ("don’t", "en", STOP),
    ],
)
def test_kinds(tokenizer: Tokenizer, content: str, language: str, kind: int) -> None:
    (token,) = one(tokenizer, content, language)
    assert token[1:] == (kind, 0, len(content))


@pytest.mark.parametrize("language", ["zh", "en", "other"])
def test_a_full_stop_ends_a_sentence_before_white_space_only(
    tokenizer: Tokenizer, language: str
) -> None:
    content = "葡萄. (葡萄.) 葡萄.\t\n葡萄."
    found = [kind for token, kind, _, _ in one(tokenizer, content, language) if token == "."]
    assert found == [SENTENCE_END, PUNCTUATION, SENTENCE_END, SENTENCE_END]


def test_white_space(tokenizer: Tokenizer) -> None:
    for language in ("zh", "en", "other"):
        row = one(tokenizer, " \n a \t b\r\n\u3000\n\n葡 \x85", language)
        assert [(token, start, end) for token, _, start, end in row] == [
            ("\n", 0, 3),
            ("a", 3, 4),
            ("b", 7, 8),
            ("\n", 8, 13),
            ("葡", 13, 14),
            ("\n", 14, 16),
        ]
        assert one(tokenizer, " \t\u3000", language) == []
        assert one(tokenizer, "\n \n", language) == [("\n", SENTENCE_END, 0, 3)]


@QUICK
@given(content=CONTENTS, language=LANGUAGES)
def test_laws_of_offsets_and_kinds(tokenizer: Tokenizer, content: str, language: str) -> None:
    done = 0
    for token, kind, start, end in one(tokenizer, content, language):
        between = content[done:start]
        assert not between.strip()
        assert between.splitlines() in ([], [between])
        raw = content[start:end]
        assert raw
        if token == "\n":
            assert kind == SENTENCE_END
            assert raw.isspace()
            assert len((raw + "x").splitlines()) > 1
        else:
            assert normalise(raw) == token
            assert not any(map(str.isspace, raw))
        if kind == TERM:
            assert 2 <= len(token) <= MAX_TERM_LENGTH
            assert any(map(str.isalpha, token))
            assert not any(map(str.isspace, token))
        if kind == NUMBER:
            assert not any(map(str.isalpha, token))
        done = end
    assert not content[done:].strip()
    assert len((content[done:] + "x").splitlines()) == 1


@QUICK
@given(st.lists(st.tuples(st.none() | CONTENTS, LANGUAGES), max_size=8), st.randoms())
def test_neighbours_and_order_do_not_matter(
    tokenizer: Tokenizer, documents: list[tuple[str | None, str]], random: Any
) -> None:
    contents = [content for content, _ in documents]
    languages = [language for _, language in documents]
    together = rows(tokenizer.tokenize(contents, languages))
    order = list(range(len(documents)))
    random.shuffle(order)
    fresh = Tokenizer(TextConfig())
    fresh._segmenter = tokenizer.segmenter  # loading it anew would take long
    for index in order:
        assert rows(fresh.tokenize([contents[index]], [languages[index]])) == [together[index]]
    shuffled = fresh.tokenize([contents[i] for i in order], [languages[i] for i in order])
    assert rows(shuffled) == [together[index] for index in order]


def test_raw_chinese_tokens_are_those_of_the_segmenter(
    tokenizer: Tokenizer, shared_corpora: Path
) -> None:
    segmenter = Segmenter()
    with (shared_corpora / "zh_csl_dev.jsonl").open(encoding="utf-8") as lines:
        contents = [json.loads(line)["text"] for line in lines]
    batch = tokenizer.tokenize(contents, ["zh"] * len(contents))
    for content, row in zip(contents, rows(batch), strict=True):
        assert row is not None
        raw = [content[start:end] for token, _, start, end in row if token != "\n"]
        assert raw == [word for word in segmenter.cut(content) if not word.isspace()]


@pytest.mark.parametrize("limit", ["_MAX_PIECES", "_MAX_CODES"])
def test_a_full_cache_changes_nothing(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    content = "机器学习 machine learning 100 。\n"
    expected = one(tokenizer, content, "zh")
    monkeypatch.setattr(piece_table, limit, 3)
    small = Tokenizer(TextConfig())
    for _ in range(3):
        assert one(small, content, "zh") == expected


def test_arrow_arrays_and_threads(tokenizer: Tokenizer, shared_corpora: Path) -> None:
    with (shared_corpora / "en_inspec.jsonl").open(encoding="utf-8") as lines:
        contents = [json.loads(line)["text"] for line in lines][:200]
    expected = tokenizer.tokenize(contents, ["en"] * len(contents))
    shared = Tokenizer(TextConfig())
    arrays = pa.array(contents), pa.array(["en"] * len(contents))
    found: list[pa.RecordBatch] = []
    threads = [
        threading.Thread(target=lambda: found.append(shared.tokenize(*arrays))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(batch.equals(expected) for batch in found)


def test_an_unknown_language_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="document 1 has the language 'fr'"):
        tokenizer.tokenize([None, "bonjour"], ["fr", "fr"])
    with pytest.raises(ValueError, match="has the language None"):
        tokenizer.tokenize(["a"], [None])


def test_user_stop_words_and_dictionary(tmp_path: Path) -> None:
    stops, user_dict = tmp_path / "stops.txt", tmp_path / "dict.txt"
    stops.write_bytes("\ufeffＬＥＸＢＥＡＭ\r\n\r\n葡萄\n".encode())
    user_dict.write_text("酿酒葡萄园 5 n\n", encoding="utf-8")
    config = TextConfig(user_dict=str(user_dict), stopwords=str(stops))
    tokenizer = Tokenizer(config)
    plain = Tokenizer(TextConfig())
    content = "酿酒葡萄园 lexbeam 葡萄"
    assert kinds(one(tokenizer, content, "zh")) == {
        "酿酒葡萄园": TERM,
        "lexbeam": STOP,
        "葡萄": STOP,
    }
    for language in ("en", "other"):
        assert kinds(one(tokenizer, "lexbeam", language)) == {"lexbeam": STOP}
    assert kinds(one(plain, "lexbeam 葡萄", "zh")) == {"lexbeam": TERM, "葡萄": TERM}
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert rows(copy.tokenize([content], ["zh"])) == [one(tokenizer, content, "zh")]
    prints = {
        Tokenizer(TextConfig(user_dict=words, stopwords=stop)).fingerprint()
        for words in (None, str(user_dict))
        for stop in (None, str(stops))
    }
    assert len(prints) == 4
    assert tokenizer.fingerprint() == copy.fingerprint()


def test_a_bad_file_of_stop_words(tmp_path: Path) -> None:
    path = tmp_path / "stops.txt"
    path.write_bytes(b"good\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="is not UTF-8") as caught:
        Tokenizer(TextConfig(stopwords=str(path)))
    assert caught.value.option == "stopwords"
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokenizer(TextConfig(stopwords=str(tmp_path / "missing")))


@pytest.mark.parametrize("language", ["zh", "en", "other"])
@pytest.mark.parametrize("unit", ["a-", "1,000", "7", "e\u0301", "...", "葡", " \n", "A+"])
def test_time_is_linear_in_odd_documents(tokenizer: Tokenizer, unit: str, language: str) -> None:
    # Quadratic time would take minutes here.
    content = unit * 200_000
    row = one(tokenizer, content, language)
    assert row[-1][3] >= len(content) - 1
