"""Tests of the word classes by look-up."""

from __future__ import annotations

import pytest

from lexbeam.models import lexicon, word_classes
from lexbeam.models.word_classes import chinese_class, english_class


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("system", "noun"),
        ("systems", "noun"),
        ("neural", "adjective"),
        ("efficient", "adjective"),
        ("the", "break"),
        ("themselves", "break"),
        ("propose", "break"),
        ("quickly", "break"),
        ("family", "noun"),
        ("3.5", "break"),
        ("--", "break"),
        # Capitalised in the lexicon only.
        ("london", "noun"),
        # Unknown to the lexicon.
        ("zorblat", "noun"),
        ("tokenizer", "noun"),
        ("unzorbly", "break"),
        ("real-time", "adjective"),
        ("rule-based", "adjective"),
        ("zorb-driven", "adjective"),
        ("zorb-vector", "noun"),
        ("tcp/ip", "noun"),
    ],
)
def test_english_class(word: str, expected: str) -> None:
    assert english_class(word) == expected


def test_inflected_verbs_break_even_if_only_the_stem_is_known() -> None:
    for stem, word in (("normalize", "normalizes"), ("streamline", "streamlines")):
        assert (lexicon.english_tag(stem), lexicon.english_tag(word)) == ("VB", None)
        assert english_class(word) == "break"


def test_only_verbs_that_the_lexicon_knows_in_ing_are_gerunds() -> None:
    words = ("ordering", "learning", "modeling", "king", "zorbling")
    tags = [lexicon.english_tag(word) for word in words]
    assert tags == ["VBG", "VBG", "NN", "NN", None]
    assert [word_classes.is_gerund(word) for word in words[1:]] == [True, False, False, False]
    # A stop word is none, whatever its tag.
    assert lexicon.english_tag("using") == "VBG"
    assert not word_classes.is_gerund("using")
    assert not word_classes.is_gerund("ordering")


def test_chinese_class_is_the_first_letter() -> None:
    assert [chinese_class(tag) for tag in ("ns", "vn", "m", "eng")] == ["n", "v", "m", "e"]


def test_unknown_chinese_words_count_as_nouns() -> None:
    assert chinese_class(None) == "n"


def test_lexicon_prefers_the_lower_case_entry() -> None:
    # "May" is a month, "may" a modal.
    assert lexicon.english_tag("may") == "MD"
    assert lexicon.english_tag("english") is not None
    assert lexicon.english_tag("zorblat") is None


def test_lexicon_has_no_comments_and_single_tags() -> None:
    tags = lexicon.load_english_tags()
    assert len(tags) > 80_000
    assert ";;;" not in tags
    assert not any("|" in tag or " " in tag for tag in tags.values())


def test_missing_package_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        lexicon.package_folder("no_such_package")
