"""What TextRank and the keyphrases ask of a word: judged once for each word of a process."""

from __future__ import annotations

import functools
import re

import numpy as np
import numpy.typing as npt

from lexbeam.models import word_classes
from lexbeam.models.jieba_data import load_tags

UInt8Array = npt.NDArray[np.uint8]

# Role of a word in a candidate phrase, the lowest two bits: it breaks a phrase, may be inside,
# may begin or head it, is a gerund.
BREAK, INSIDE, CONTENT, GERUND = range(4)
ROLE = 3
# A node of TextRank, if it is a term.
NODE = 4
# An ideograph stands at its beginning or end.
BEGINS_HAN, ENDS_HAN = 8, 16

_MAX_CACHED_WORDS = 1 << 19

_HAN = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_HIRAGANA = re.compile(r"[\u3041-\u309f\u30fc]+")
# Letters of alphabets whose content words are mostly longer than three letters.
_SHORT_ALPHABETIC = re.compile(r"[a-z\u00df-\u024f\u0370-\u052f\u0590-\u06ff'’]{1,3}")


def word_flags(words: list[str], language: str) -> UInt8Array:
    """Flags of normalised words: (len(words),) uint8, `ROLE` and the bits above."""
    table = _table(language)
    if len(table) > _MAX_CACHED_WORDS:
        # Replaced, not emptied: another thread may be reading it.
        _table.cache_clear()
        table = _table(language)
    return np.fromiter(map(table.__getitem__, words), np.uint8, len(words))


class _FlagTable(dict[str, int]):
    """Flags by word; a word that is not there is judged as it is looked up."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._language = language

    def __missing__(self, word: str) -> int:
        flags = _LANGUAGE_FLAGS[self._language](word)
        flags |= BEGINS_HAN if _HAN.match(word) else 0
        flags |= ENDS_HAN if _HAN.match(word[-1:]) else 0
        self[word] = flags
        return flags


@functools.cache
def _table(language: str) -> _FlagTable:
    return _FlagTable(language)


def _chinese_flags(word: str) -> int:
    tag = load_tags().get(word)
    begins = word_classes.chinese_class(tag) not in word_classes.CHINESE_NO_BEGIN
    # A word that the dictionary lacks may stand in a phrase, but is no node.
    is_node = tag is not None and tag.startswith(word_classes.CHINESE_CONTENT)
    return (CONTENT if begins else INSIDE) | (NODE if is_node else 0)


def _english_flags(word: str) -> int:
    word_class = word_classes.english_class(word)
    node = 0 if word_class == "break" else NODE
    if word_classes.is_gerund(word):
        return GERUND | node
    if word_classes.is_participle(word):
        # "distributed system", "measured variable".
        return INSIDE | node
    return {"break": BREAK, "adjective": INSIDE, "noun": CONTENT}[word_class] | node


def _other_flags(word: str) -> int:
    if _HIRAGANA.fullmatch(word):
        return BREAK | NODE
    # What to think of a short word depends on whether its language has a list of stop words.
    return (INSIDE if _SHORT_ALPHABETIC.fullmatch(word) else CONTENT) | NODE


_LANGUAGE_FLAGS = {"zh": _chinese_flags, "en": _english_flags, "other": _other_flags}
