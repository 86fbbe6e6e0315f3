"""Word classes by look-up: which words may stand in a keyphrase, and which are nodes of TextRank.

No tagger runs. English classes come from the lexicon of a tagger (`lexicon`), Chinese ones from
the tags in jieba's dictionary.
"""

from __future__ import annotations

import functools

from lexbeam.models import lexicon
from lexbeam.models.stopwords import stop_words

# Chinese words of these classes do not begin a phrase: numerals, measure words, localisers,
# adverbs (the first letter of the tag in the set of the Institute of Computational Linguistics).
CHINESE_NO_BEGIN = ("m", "q", "f", "d")
# Chinese words of these classes are nodes of TextRank: nouns, verbs, adjectives.
CHINESE_CONTENT = ("n", "v", "a")

_ADJECTIVE_ENDINGS = frozenset(
    "aware based bound dependent driven free friendly less like oriented related specific".split()
)


@functools.lru_cache(maxsize=2**16)
def english_class(word: str) -> str:
    """Class of a lower-case English word: `adjective`, `noun` or `break`.

    A stop word, function word, verb, number and a word in `-ly` is a break. A word that the
    lexicon lacks has the class of its stem without an inflection (`-s`, `-es`, `-ed`, `-ing`)
    where the lexicon has that as a verb or noun, or of its last part where it has a hyphen;
    any other is a noun.
    """
    if word in stop_words("en") or not any(character.isalpha() for character in word):
        return "break"
    tag = lexicon.english_tag(word)
    if tag is not None:
        return _class_of_tag(word, tag)
    for mark in "-/_":
        if mark in word.strip(mark):
            return _compound_class(word.rpartition(mark)[2])
    if word.endswith("ly") and len(word) > 4:
        return "break"
    return _inflected_class(word)


@functools.lru_cache(maxsize=2**16)
def is_gerund(word: str) -> bool:
    """Whether a lower-case English word is a verb in `-ing`, which may follow a noun."""
    return word not in stop_words("en") and lexicon.english_tag(word) == "VBG"


@functools.lru_cache(maxsize=2**16)
def is_participle(word: str) -> bool:
    """Whether a lower-case English word may be a past participle, which may precede a noun."""
    tag = lexicon.english_tag(word)
    is_past = tag == "VBN" or (tag == "VBD" and word.endswith("ed"))
    return is_past and word not in stop_words("en")


def chinese_class(tag: str | None) -> str:
    """First letter of a dictionary tag; a word that no dictionary has counts as a noun (`n`)."""
    return tag[0] if tag else "n"


def _class_of_tag(word: str, tag: str) -> str:
    if word.endswith("ly") and not tag.startswith("NN"):
        return "break"
    if tag.startswith("JJ"):
        return "adjective"
    if tag.startswith("NN") or tag == "FW":
        return "noun"
    return "break"


def _compound_class(last: str) -> str:
    """Class of a hyphenated word by its last part: "well-known", "real-time"."""
    tag = lexicon.english_tag(last)
    if last in _ADJECTIVE_ENDINGS:
        return "adjective"
    # A participle at the end makes an adjective; any verb within a compound is no verb.
    if tag is not None and tag.startswith(("JJ", "VBN", "VBD", "VBG")):
        return "adjective"
    return "noun"


def _inflected_class(word: str) -> str:
    for ending, replacements in (
        ("s", ("",)),
        ("es", ("",)),
        ("ed", ("", "e")),
        ("ing", ("", "e")),
    ):
        if not word.endswith(ending) or len(word) < len(ending) + 3:
            continue
        for replacement in replacements:
            tag = lexicon.english_tag(word.removesuffix(ending) + replacement)
            if tag is not None and tag.startswith("VB"):
                return "break"
    return "noun"
