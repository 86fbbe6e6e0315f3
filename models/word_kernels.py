"""Compiled division of texts that are not Chinese: the rule of `tokens`, without expressions.

The functions `_match_…` return where a match ends, or their `position` where there is none.
"""

from __future__ import annotations

import numpy as np

from lexbeam.models.characters import (
    ASCII_DIGIT,
    ASCII_LETTER,
    HAN,
    HANGUL,
    HIRAGANA,
    KATAKANA,
    LETTER,
    MARK,
    PUNCTUATION,
    SPACE,
)
from lexbeam.models.compiled import (
    BoolArray,
    Int8Array,
    Int32Array,
    Int64Array,
    UInt16Array,
    UInt32Array,
    entry,
    helper,
)

# How a text is divided.
CHINESE, ENGLISH, OTHER = range(3)

_EAST_ASIAN = HAN | HIRAGANA | KATAKANA | HANGUL
_PLUS, _HASH, _COMMA, _DOT, _PERCENT, _UNDERSCORE = (ord(character) for character in "+#,.%_")
_HYPHEN, _APOSTROPHE, _QUOTE, _SLASH, _AMPERSAND = (ord(character) for character in "-'’/&")
_NON_JOINER, _JOINER = 0x200C, 0x200D


@helper
def _has(codes: UInt32Array, position: int, end: int, classes: UInt16Array, bits: int) -> bool:
    """Whether a character stands at `position` that has one of the classes."""
    return position < end and classes[codes[position]] & bits != 0


@helper
def _skip(codes: UInt32Array, position: int, end: int, classes: UInt16Array, bits: int) -> int:
    """The first place from `position` on without the classes."""
    while position < end and classes[codes[position]] & bits != 0:
        position += 1
    return position


@helper
def _match_language_name(codes: UInt32Array, position: int, end: int, classes: UInt16Array) -> int:
    """One or two letters with `++` or `#`, no word behind: `C++`, `F#`."""
    stop = position
    while stop < position + 2 and _has(codes, stop, end, classes, ASCII_LETTER):
        stop += 1
    if stop == position or stop == end:
        return position
    if codes[stop] == _HASH:
        stop += 1
    elif codes[stop] == _PLUS and stop + 1 < end and codes[stop + 1] == _PLUS:
        stop += 2
    else:
        return position
    return position if _has(codes, stop, end, classes, LETTER | MARK) else stop


@helper
def _match_fraction(codes: UInt32Array, position: int, end: int, classes: UInt16Array) -> int:
    """A full stop with digits behind it."""
    if position < end and codes[position] == _DOT:
        stop = _skip(codes, position + 1, end, classes, ASCII_DIGIT)
        if stop > position + 1:
            return stop
    return position


@helper
def _match_number(codes: UInt32Array, position: int, end: int, classes: UInt16Array) -> int:
    """Digits with separators of thousands, or with a per cent sign: `1,000.5`, `3.5%`."""
    digits = _skip(codes, position, end, classes, ASCII_DIGIT)
    if digits == position:
        return position
    stop = digits
    while stop < end and codes[stop] == _COMMA:
        group = stop + 1
        while group < stop + 4 and _has(codes, group, end, classes, ASCII_DIGIT):
            group += 1
        if group < stop + 4:
            break
        stop = group
    if stop > digits and not _has(codes, stop, end, classes, ASCII_DIGIT):
        stop = _match_fraction(codes, stop, end, classes)
        return stop + 1 if stop < end and codes[stop] == _PERCENT else stop
    stop = _match_fraction(codes, digits, end, classes)
    return stop + 1 if stop < end and codes[stop] == _PERCENT else position


@helper
def _match_plain_word(codes: UInt32Array, position: int, end: int, classes: UInt16Array) -> int:
    """Letters and digits, the first one without a mark before it."""
    if not _has(codes, position, end, classes, LETTER):
        return position
    return _skip(codes, position, end, classes, LETTER | MARK)


@helper
def _is_joint(code: int) -> bool:
    """Whether the character joins two words."""
    if code == _HYPHEN or code == _APOSTROPHE or code == _QUOTE or code == _SLASH:
        return True
    if code == _AMPERSAND or code == _DOT or code == _PLUS:
        return True
    return code == _NON_JOINER or code == _JOINER


@helper
def _match_joint(codes: UInt32Array, position: int, end: int) -> int:
    """What joins two words: underscores, `++`, or a single joint."""
    stop = position
    while stop < end and codes[stop] == _UNDERSCORE:
        stop += 1
    if stop > position or position == end:
        return stop
    if codes[position] == _PLUS and position + 1 < end and codes[position + 1] == _PLUS:
        return position + 2
    return position + 1 if _is_joint(codes[position]) else position


@helper
def _match_word(codes: UInt32Array, position: int, end: int, classes: UInt16Array) -> int:
    """Plain words with joints between them."""
    stop = _match_plain_word(codes, position, end, classes)
    if stop == position:
        return position
    while True:
        joint = _match_joint(codes, stop, end)
        after = _match_plain_word(codes, joint, end, classes)
        if joint == stop or after == joint:
            return stop
        stop = after


@helper
def _match_run(codes: UInt32Array, position: int, end: int, classes: UInt16Array) -> int:
    """White space, a run of one East Asian script or of one punctuation mark, or a character."""
    found = classes[codes[position]] & (SPACE | _EAST_ASIAN)
    if found:
        return _skip(codes, position, end, classes, found)
    stop = position + 1
    if classes[codes[position]] & PUNCTUATION:
        while stop < end and codes[stop] == codes[position]:
            stop += 1
    return stop


@helper
def _match_piece(codes: UInt32Array, position: int, end: int, classes: UInt16Array) -> int:
    """The next piece of a text; never empty."""
    if classes[codes[position]] & LETTER:
        stop = _match_language_name(codes, position, end, classes)
        if stop == position:
            stop = _match_number(codes, position, end, classes)
        return stop if stop > position else _match_word(codes, position, end, classes)
    return _match_run(codes, position, end, classes)


@entry
def divide_texts(
    codes: UInt32Array, offsets: Int64Array, rules: Int8Array, classes: UInt16Array
) -> tuple[Int64Array, Int32Array, BoolArray]:
    """Divide texts into spans, as far as no dictionary is needed.

    Args:
        codes: code points of all texts, end to end.
        offsets: (num_texts + 1,) where each text begins and ends.
        rules: (num_texts,) CHINESE texts stay whole; of ENGLISH ones the runs of Han do, which
            are Chinese; OTHER ones are divided throughout.
        classes: `characters.class_table()`.

    Returns:
        (num_texts + 1,) int64 first span of each text, (num_spans,) int32 end of each in `codes`,
        (num_spans,) bool whether it is Chinese, to be cut into words.
    """
    counts = np.zeros(len(offsets), np.int64)
    ends = np.empty(len(codes), np.int32)
    is_chinese = np.zeros(len(codes), np.bool_)
    count = 0
    for text in range(len(offsets) - 1):
        position, end = offsets[text], offsets[text + 1]
        while position < end:
            if rules[text] == CHINESE:
                is_chinese[count] = True
                position = end
            else:
                is_han = classes[codes[position]] & HAN != 0
                is_chinese[count] = is_han and rules[text] == ENGLISH
                position = _match_piece(codes, position, end, classes)
            ends[count] = position
            count += 1
        counts[text + 1] = count
    return counts, ends[:count].copy(), is_chinese[:count].copy()
