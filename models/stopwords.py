"""Stop words of Chinese and English, from the lists of `stopwords-iso`.

The English list of that collection is made for web search and holds many words that are good
keywords ("system", "problem", "information"). Of it remain

- the words whose commonest class in a tagged lexicon (see `word_classes`) is not a noun and not
  an adjective: determiners, pronouns, prepositions, conjunctions, auxiliaries, adverbs, numerals
  and the verbs of the list;
- contractions, with either apostrophe and without;
- determiners, pronouns, ordinals and titles that the lexicon takes for adjectives or nouns, and
  function words that it does not know (`_FUNCTION_WORDS`).
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

from lexbeam.models import lexicon

APOSTROPHES = "'’"

# Words of the list that the class alone would drop. Each must stand in the list as well.
_FUNCTION_WORDS = frozenset(
    # Determiners, quantifiers, ordinals.
    "able certain due few fewer first former further last latter least less many more much next "
    "other others own same second several such third various whole "
    # Pronouns.
    "anybody anyone anything everybody everyone everything mine nobody no-one none noone nothing "
    "re selves somebody someone something "
    # Adverbs, conjunctions and prepositions that the lexicon lacks or takes for nouns.
    "ago amoungst eg evermore hereupon howbeit ie latterly meantime neverless thru tis twas "
    "via viz vs whereafter whilst whither whomever whos "
    # Contractions whose letters are another word, and titles.
    "cant wont co inc ltd mr mrs ms".split()
)
# Letters that stand for something else more often than for the word that the lexicon means.
_ABBREVIATIONS = frozenset("ai au bi ca dm er fo il la ma nd ne se sl th ts um".split())


def stop_words(language: str) -> frozenset[str]:
    """Stop words of a language: lower case of NFKC.

    Args:
        language: `zh`, `en` or `other`, which has none.

    Raises:
        ValueError: the language is none of these.
    """
    return _stop_words(language)


@functools.cache
def _stop_words(language: str) -> frozenset[str]:
    if language == "other":
        return frozenset()
    if language not in ("zh", "en"):
        raise ValueError(f"no stop words for the language {language!r}: use zh, en or other")
    words = listed_words(language)
    return _english_function_words(words) if language == "en" else words


def listed_words(language: str) -> frozenset[str]:
    """A list of `stopwords-iso` as it is, in lower case of NFKC, by its ISO 639-1 code."""
    return frozenset(unicodedata.normalize("NFKC", word).lower() for word in _lists()[language])


def listed_languages() -> list[str]:
    """Codes of the languages that `stopwords-iso` has."""
    return sorted(_lists())


@functools.cache
def _lists() -> Mapping[str, list[str]]:
    path = lexicon.package_folder("stopwordsiso") / "stopwords-iso.json"
    return MappingProxyType(json.loads(path.read_text(encoding="utf-8")))


def _english_function_words(listed: frozenset[str]) -> frozenset[str]:
    contractions = {word for word in listed if any(mark in word for mark in APOSTROPHES)}
    straight = {word.replace("’", "'") for word in contractions}
    bare = {word.replace("'", "") for word in straight}
    # "didn" of a tokenizer that cuts at the apostrophe.
    heads = {word.partition("'")[0] for word in straight if word.endswith("n't")}
    kept = straight | {word.replace("'", "’") for word in straight} | (listed & _FUNCTION_WORDS)
    for word in listed - contractions - _ABBREVIATIONS:
        tag = lexicon.english_tag(word)
        is_clipped = tag is None and word in bare | heads
        if is_clipped or (tag is not None and not tag.startswith(("NN", "JJ"))):
            kept.add(word)
    return frozenset(kept)
