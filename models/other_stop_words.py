"""Function words of texts that are neither Chinese nor English.

No language is detected beforehand: of the lists of `stopwords-iso`, the one that holds the largest
share of a document's words is taken for it, if that is at least `MIN_WORDS` words and `MIN_SHARE`
of them: a third to a half of a text's words stand in the list of its language (fewer where endings
do the work of function words), and few in that of another.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from lexbeam.models.stopwords import listed_languages, listed_words

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]

MIN_WORDS = 2
MIN_SHARE = 0.15


def other_stop_words(
    documents: Int64Array, words: Int64Array, terms: list[str], num_documents: int
) -> tuple[BoolArray, BoolArray]:
    """Which words of a block are function words in the language of their document.

    Args:
        documents: (n,) document of each word.
        words: (n,) index into `terms`.
        terms: distinct normalised words.
        num_documents: of the block.

    Returns:
        (n,) whether the word is one; (num_documents,) whether a list was found for the document.
    """
    lists = _lists_by_word()
    masks = np.array([lists.get(term, 0) for term in terms], np.uint64)[words]
    num_lists = len(_list_names())
    listed = np.zeros((num_lists, num_documents))
    for place in range(num_lists):
        is_listed = (masks >> np.uint64(place)) & np.uint64(1)
        listed[place] = np.bincount(documents, weights=is_listed, minlength=num_documents)
    best, most = listed.argmax(axis=0), listed.max(axis=0)
    num_words = np.bincount(documents, minlength=num_documents)
    has_list = (most >= MIN_WORDS) & (most >= MIN_SHARE * num_words)
    is_listed = (masks >> best.astype(np.uint64)[documents]) & np.uint64(1)
    return (is_listed == 1) & has_list[documents], has_list


@functools.cache
def _list_names() -> tuple[str, ...]:
    """Languages but Chinese, whose documents are not of another language here."""
    return tuple(name for name in listed_languages() if name != "zh")


@functools.cache
def _lists_by_word() -> dict[str, int]:
    """For each listed word a bit for each of `_list_names` that has it; 57 of them."""
    masks: dict[str, int] = {}
    for place, name in enumerate(_list_names()):
        for word in listed_words(name):
            masks[word] = masks.get(word, 0) | 1 << place
    return masks
