"""Leaves near-duplicates out of a list of keyphrases, for showing it to people.

A phrase is left out beside a better one that says the same with more or fewer words. Its *units*
are the stems of its words in English, pairs of adjacent characters in Chinese, its words
elsewhere; with `shared` units in common it is left out where

- one of the two contains the other: shared = the smaller number of units; or
- they overlap in more than two thirds: 2 shared / (units of both) > 2/3 (Dice 1945).

The columns of a run are never filtered: leaving out sub-phrases costs F against gold keyphrases.
"""

from __future__ import annotations

from collections.abc import Sequence

from lexbeam.models.keyphrase_metrics import normal_form

MAX_OVERLAP = 2 / 3


def diverse_places(phrases: Sequence[str], language: str) -> list[int]:
    """Places of the phrases that are kept, ascending.

    Args:
        phrases: best first.
        language: `zh`, `en` or `other`.
    """
    kept: list[int] = []
    kept_units: list[frozenset[str]] = []
    for place, phrase in enumerate(phrases):
        units = _units(phrase, language)
        if units and not any(_is_redundant(units, better) for better in kept_units):
            kept.append(place)
            kept_units.append(units)
    return kept


def _units(phrase: str, language: str) -> frozenset[str]:
    form = normal_form(phrase, language)
    if language != "zh":
        return frozenset(form.split())
    characters = form.replace(" ", "")
    pairs = zip(characters, characters[1:], strict=False)
    return frozenset(map("".join, pairs)) or frozenset(characters)


def _is_redundant(units: frozenset[str], better: frozenset[str]) -> bool:
    shared = len(units & better)
    is_contained = shared == min(len(units), len(better))
    return is_contained or 2 * shared > MAX_OVERLAP * (len(units) + len(better))
