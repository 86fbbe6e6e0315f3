"""Tests of the stop words."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest

from lexbeam.models import lexicon, stopwords
from lexbeam.models.stopwords import stop_words


@pytest.mark.parametrize("language", ["zh", "en"])
def test_words_are_normalised(language: str) -> None:
    words = stop_words(language)
    assert words == {unicodedata.normalize("NFKC", word).lower() for word in words}
    assert "" not in words


def test_other_languages_have_none() -> None:
    assert stop_words("other") == frozenset()


def test_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="'fr'"):
        stop_words("fr")


def test_english_content_words_are_no_stop_words() -> None:
    content = "system problem information computer value interest part detail test work ai it's"
    assert set(content.split()) & stop_words("en") == {"it's"}


def test_english_function_words_are_stop_words() -> None:
    words = "the of and not was were which she herself using between such several first nothing"
    assert set(words.split()) <= stop_words("en")


def test_contractions_have_both_apostrophes() -> None:
    words = stop_words("en")
    assert {"don't", "don’t", "dont", "they'll", "they’ll", "couldn"} <= words
    assert {word.replace("'", "’") for word in words if "'" in word} <= words
    assert {word.replace("’", "'") for word in words if "’" in word} <= words


def test_agrees_with_scikit_learn_on_function_words() -> None:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    missing = ENGLISH_STOP_WORDS - stop_words("en")
    # What is left out is content: nouns and adjectives of the lexicon.
    assert all((lexicon.english_tag(word) or "").startswith(("NN", "JJ")) for word in missing)
    assert len(missing) < 0.1 * len(ENGLISH_STOP_WORDS)


def test_own_words_stand_in_the_package_list() -> None:
    listed = stopwords.listed_words("en")
    assert listed >= stopwords._FUNCTION_WORDS
    assert listed >= stopwords._ABBREVIATIONS


def test_chinese_stop_words() -> None:
    words = stop_words("zh")
    assert {"的", "了", "我们", "以及", "通过"} <= words
    assert not {"系统", "研究", "控制器"} & words


def test_heavy_packages_are_not_imported() -> None:
    code = (
        "import sys; from lexbeam.models.stopwords import stop_words;"
        "stop_words('en'); stop_words('zh');"
        "print(sorted({'nltk', 'textblob', 'sklearn', 'stopwordsiso'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.returncode) == ("[]", 0)
