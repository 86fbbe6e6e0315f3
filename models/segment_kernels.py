"""Compiled Chinese segmentation: the words of jieba's `cut`, for many texts in one call.

Imported where text is cut, not before: numba is heavy.

Every word and every beginning of a word of the dictionary is a *node*: a slot of an open hash
table, whose key is (slot of the beginning without its last character + 1, last character). A look
along the text therefore costs one probe a character, and needs no string.

Sums are taken in jieba's order, in float64 and without reassociation: equal bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lexbeam.models.compiled import (
    BoolArray,
    FloatArray,
    Int32Array,
    Int64Array,
    Integer,
    UInt8Array,
    UInt32Array,
    UInt64Array,
    entry,
    helper,
)
from lexbeam.models.jieba_data import HAN_MAX, HAN_MIN

# States of the hidden Markov model in the order of their letters, so that of two equal scores the
# larger number wins, as it does among jieba's (score, letter) pairs.
BEGIN, END, MIDDLE, SINGLE = range(4)
# In place of a node's log frequency: it is a mere beginning; it is a word that must be split.
BEGINNING, FORCED = np.nan, -np.inf
_LEAST = -1e300

_DOT, _PERCENT = ord("."), ord("%")
_RETURN, _LINE_FEED = ord("\r"), ord("\n")
# Punctuation of a run: # % & + - . _
_NUMBER, _AMPERSAND, _PLUS, _HYPHEN, _UNDERSCORE = (ord(character) for character in "#&+-_")

_CODE_BITS = np.uint64(21)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class WordModel(NamedTuple):
    """What jieba knows of words.

    Attributes:
        keys: (capacity,) uint64, keys of the nodes, 0 where there is none.
        log_frequencies: (capacity,) float64, of words; `BEGINNING` or `FORCED` for other nodes.
        firsts: (HAN_MAX + 1,) int32, node of each single character, -1 where there is none.
        singles: (HAN_MAX + 1,) float64, log frequency of each single character that is a word;
            `BEGINNING` or `FORCED` for others. So that the commonest look-ups stay in cache.
        log_total: logarithm of the sum of all frequencies.
        initial, transition, emission: the hidden Markov model, see `jieba_data.load_model`.
        has_forced: whether any word must be split.
    """

    keys: UInt64Array
    log_frequencies: FloatArray
    firsts: Int32Array
    singles: FloatArray
    log_total: float
    initial: FloatArray
    transition: FloatArray
    emission: FloatArray
    has_forced: bool


class _Scratch(NamedTuple):
    """Room for one text: scores and ends of the best route; states of the Markov model."""

    scores: FloatArray
    route: Int32Array
    before: UInt8Array
    states: UInt8Array


@helper
def _is_han(code: Integer) -> bool:
    return HAN_MIN <= code <= HAN_MAX


@helper
def _is_digit(code: Integer) -> bool:
    return 48 <= code <= 57


@helper
def _is_alphanumeric(code: Integer) -> bool:
    return 48 <= code <= 57 or 65 <= code <= 90 or 97 <= code <= 122


@helper
def _is_in_run(code: Integer) -> bool:
    """Whether jieba looks the character up, instead of making it a token of its own."""
    if _is_han(code) or _is_alphanumeric(code) or code == _DOT or code == _PERCENT:
        return True
    if code == _NUMBER or code == _AMPERSAND or code == _PLUS:
        return True
    return code == _HYPHEN or code == _UNDERSCORE


@helper
def _find_slot(keys: UInt64Array, key: Integer) -> Integer:
    """Slot of the key, or the free one where it belongs."""
    mask = len(keys) - 1
    hashed = np.uint64(key) * _MULTIPLIER
    slot = np.int64(hashed >> np.uint64(32)) & mask
    while keys[slot] != np.uint64(0) and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@helper
def _key(parent: Integer, code: Integer) -> Integer:
    """Key of a node; `parent` -1 for single characters."""
    return (np.uint64(parent + 1) << _CODE_BITS) | np.uint64(code)


@helper
def _find_child(keys: UInt64Array, parent: Integer, code: Integer) -> Integer:
    """Node of one more character, or -1."""
    key = _key(parent, code)
    slot = _find_slot(keys, key)
    return slot if keys[slot] == key else -1


@helper
def _find_node(keys: UInt64Array, codes: UInt32Array, start: Integer, end: Integer) -> Integer:
    """Node of `codes[start:end]`, or -1."""
    node = -1
    for position in range(start, end):
        node = _find_child(keys, node, codes[position])
        if node < 0:
            return -1
    return node


@entry
def find_node(keys: UInt64Array, codes: UInt32Array) -> Integer:
    """Node of a text, or -1."""
    return _find_node(keys, codes, 0, len(codes))


@entry
def insert_words(keys: UInt64Array, codes: UInt32Array, offsets: Int64Array) -> Int64Array:
    """Add words and all their beginnings.

    Args:
        keys: see `WordModel`; must have room. Changed in place.
        codes: code points of the words, end to end.
        offsets: (num_words + 1,) where each begins.

    Returns:
        (num_words,) the node of each.
    """
    nodes = np.empty(len(offsets) - 1, np.int64)
    for word in range(len(nodes)):
        node = -1
        for position in range(offsets[word], offsets[word + 1]):
            key = _key(node, codes[position])
            node = _find_slot(keys, key)
            keys[node] = key
        nodes[word] = node
    return nodes


@entry
def first_nodes(keys: UInt64Array) -> Int32Array:
    """(HAN_MAX + 1,) node of each single character, -1 where there is none."""
    firsts = np.empty(HAN_MAX + 1, np.int32)
    for code in range(len(firsts)):
        firsts[code] = _find_child(keys, -1, code)
    return firsts


@helper
def _find_route(
    codes: UInt32Array, start: Integer, end: Integer, model: WordModel, scratch: _Scratch
) -> None:
    """The most probable route through a run: `scratch.route[i]` ends the word at `start + i`.

    Of equal scores the longer word wins, as among jieba's (score, end) pairs.
    """
    scores, route = scratch.scores, scratch.route
    log_frequencies, log_total = model.log_frequencies, model.log_total
    scores[end - start] = 0.0
    for position in range(end - 1, start - 1, -1):
        best = 0.0 - log_total + scores[position + 1 - start]
        best_stop = position + 1
        is_found = False
        stop = position
        node = np.int64(model.firsts[codes[position]])
        log_frequency = model.singles[codes[position]]
        while node >= 0:
            stop += 1
            # Not so for a mere beginning, which is no number.
            if log_frequency > _LEAST:
                score = log_frequency - log_total + scores[stop - start]
                if not is_found or score >= best:
                    best, best_stop, is_found = score, stop, True
            if stop == end:
                break
            node = _find_child(model.keys, node, codes[stop])
            log_frequency = log_frequencies[node]
        scores[position - start] = best
        route[position - start] = best_stop


@helper
def _find_states(
    codes: UInt32Array, start: Integer, end: Integer, model: WordModel, scratch: _Scratch
) -> None:
    """Viterbi path of `codes[start:end]` into `scratch.states[: end - start]`."""
    transition, emission = model.transition, model.emission
    before, states = scratch.before, scratch.states
    # B and S follow E or S; E and M follow B or M.
    end_begin, single_begin = transition[END, BEGIN], transition[SINGLE, BEGIN]
    begin_end, middle_end = transition[BEGIN, END], transition[MIDDLE, END]
    begin_middle, middle_middle = transition[BEGIN, MIDDLE], transition[MIDDLE, MIDDLE]
    end_single, single_single = transition[END, SINGLE], transition[SINGLE, SINGLE]
    code = codes[start] - HAN_MIN
    begin, stop = (
        model.initial[BEGIN] + emission[code, BEGIN],
        model.initial[END] + emission[code, END],
    )
    middle = model.initial[MIDDLE] + emission[code, MIDDLE]
    single = model.initial[SINGLE] + emission[code, SINGLE]
    for place in range(1, end - start):
        code = codes[start + place] - HAN_MIN
        to_begin, to_end = emission[code, BEGIN], emission[code, END]
        to_middle, to_single = emission[code, MIDDLE], emission[code, SINGLE]
        from_end, from_single = stop + end_begin + to_begin, single + single_begin + to_begin
        before[place, BEGIN] = END if from_end > from_single else SINGLE
        next_begin = max(from_end, from_single)
        from_begin, from_middle = begin + begin_end + to_end, middle + middle_end + to_end
        before[place, END] = BEGIN if from_begin > from_middle else MIDDLE
        next_stop = max(from_begin, from_middle)
        from_begin = begin + begin_middle + to_middle
        from_middle = middle + middle_middle + to_middle
        before[place, MIDDLE] = BEGIN if from_begin > from_middle else MIDDLE
        from_end, from_single = stop + end_single + to_single, single + single_single + to_single
        before[place, SINGLE] = END if from_end > from_single else SINGLE
        begin, stop = next_begin, next_stop
        middle, single = max(from_begin, from_middle), max(from_end, from_single)
    state = END if stop > single else SINGLE
    for place in range(end - start - 1, -1, -1):
        states[place] = state
        if place > 0:
            state = before[place, state]


@helper
def _append_word(
    codes: UInt32Array,
    start: Integer,
    end: Integer,
    model: WordModel,
    ends: Int32Array,
    count: Integer,
) -> Integer:
    """Append the end of an unknown word, or of each of its characters where it must be split."""
    if model.has_forced:
        node = _find_node(model.keys, codes, start, end)
        if node >= 0 and model.log_frequencies[node] == FORCED:
            return _append_singles(start, end, ends, count)
    ends[count] = end
    return count + 1


@helper
def _append_singles(start: Integer, end: Integer, ends: Int32Array, count: Integer) -> Integer:
    for position in range(start, end):
        ends[count] = position + 1
        count += 1
    return count


@helper
def _divide_han(
    codes: UInt32Array,
    start: Integer,
    end: Integer,
    model: WordModel,
    scratch: _Scratch,
    ends: Int32Array,
    count: Integer,
) -> Integer:
    """Append the ends of the words that the Markov model finds; returns the new count."""
    _find_states(codes, start, end, model, scratch)
    done = start
    for position in range(start, end):
        state = scratch.states[position - start]
        if state == END or state == SINGLE:
            count = _append_word(codes, done, position + 1, model, ends, count)
            done = position + 1
    if done < end:
        count = _append_word(codes, done, end, model, ends, count)
    return count


@helper
def _divide_ascii(
    codes: UInt32Array, start: Integer, end: Integer, ends: Int32Array, count: Integer
) -> Integer:
    """Append the ends of `letters and digits[.digits][%]` and of what stands between."""
    position = start
    while position < end:
        if _is_alphanumeric(codes[position]):
            while position < end and _is_alphanumeric(codes[position]):
                position += 1
            if position + 1 < end and codes[position] == _DOT and _is_digit(codes[position + 1]):
                position += 1
                while position < end and _is_digit(codes[position]):
                    position += 1
            if position < end and codes[position] == _PERCENT:
                position += 1
        else:
            while position < end and not _is_alphanumeric(codes[position]):
                position += 1
        ends[count] = position
        count += 1
    return count


@helper
def _divide_unknown(
    codes: UInt32Array,
    start: Integer,
    end: Integer,
    model: WordModel,
    scratch: _Scratch,
    ends: Int32Array,
    count: Integer,
) -> Integer:
    """Append the ends of the words among characters that the route left single."""
    node = _find_node(model.keys, codes, start, end)
    is_word = node >= 0 and model.log_frequencies[node] > _LEAST
    if end - start == 1 or is_word:  # jieba leaves a run that is a word in characters
        return _append_singles(start, end, ends, count)
    position = start
    while position < end:
        is_han = _is_han(codes[position])
        stop = position + 1
        while stop < end and _is_han(codes[stop]) == is_han:
            stop += 1
        if is_han:
            count = _divide_han(codes, position, stop, model, scratch, ends, count)
        else:
            count = _divide_ascii(codes, position, stop, ends, count)
        position = stop
    return count


@helper
def _cut_run(
    codes: UInt32Array,
    start: Integer,
    end: Integer,
    model: WordModel,
    scratch: _Scratch,
    ends: Int32Array,
    count: Integer,
) -> Integer:
    """Append the ends of the words of a run that jieba looks up."""
    _find_route(codes, start, end, model, scratch)
    position = unknown = start
    while position < end:
        stop = np.int64(scratch.route[position - start])
        if stop - position > 1:
            if position > unknown:
                count = _divide_unknown(codes, unknown, position, model, scratch, ends, count)
            ends[count] = stop
            count += 1
            unknown = stop
        position = stop
    if end > unknown:
        count = _divide_unknown(codes, unknown, end, model, scratch, ends, count)
    return count


@helper
def _join_run(
    codes: UInt32Array,
    start: Integer,
    end: Integer,
    model: WordModel,
    scratch: _Scratch,
    ends: Int32Array,
    count: Integer,
) -> Integer:
    """Append the ends of a run's words without the Markov model; ASCII letters are joined."""
    _find_route(codes, start, end, model, scratch)
    position = start
    was_letter = False
    while position < end:
        stop = np.int64(scratch.route[position - start])
        is_letter = stop - position == 1 and _is_alphanumeric(codes[position])
        if is_letter and was_letter:
            count -= 1
        ends[count] = stop
        count += 1
        was_letter = is_letter
        position = stop
    return count


@helper
def _make_scratch(size: int) -> _Scratch:
    return _Scratch(
        np.empty(size + 1, np.float64),
        np.empty(size + 1, np.int32),
        np.empty((size + 1, 4), np.uint8),
        np.empty(size + 1, np.uint8),
    )


@helper
def _cut_span(
    codes: UInt32Array,
    start: Integer,
    end: Integer,
    model: WordModel,
    scratch: _Scratch,
    with_unknown: bool,
    ends: Int32Array,
    count: Integer,
) -> Integer:
    """Append the ends of the words of a text; returns the new count."""
    position = start
    while position < end:
        stop = position + 1
        if not _is_in_run(codes[position]):
            if codes[position] == _RETURN and stop < end and codes[stop] == _LINE_FEED:
                stop += 1
            ends[count] = stop
            count += 1
        else:
            while stop < end and _is_in_run(codes[stop]):
                stop += 1
            if with_unknown:
                count = _cut_run(codes, position, stop, model, scratch, ends, count)
            else:
                count = _join_run(codes, position, stop, model, scratch, ends, count)
        position = stop
    return count


@entry
def cut_spans(
    codes: UInt32Array,
    span_offsets: Int64Array,
    span_ends: Int32Array,
    is_chinese: BoolArray,
    model: WordModel,
    with_unknown: bool,
) -> tuple[Int64Array, Int32Array]:
    """Cut the Chinese ones among the spans of some texts into words; the others stay whole.

    Args:
        codes: code points of all texts, end to end; spans divide them without a rest.
        span_offsets: (num_texts + 1,) first span of each text.
        span_ends: (num_spans,) end of each span, an index into `codes`.
        is_chinese: (num_spans,).
        model: of the words.
        with_unknown: ask the Markov model for unknown words (jieba's `HMM`).

    Returns:
        (num_texts + 1,) int64 first word of each text, (num_words,) int32 ends of the words.
    """
    longest: Integer = 0
    start: Integer = 0
    for span in range(len(span_ends)):
        longest = max(longest, span_ends[span] - start)
        start = span_ends[span]
    scratch = _make_scratch(longest)
    offsets = np.zeros(len(span_offsets), np.int64)
    ends = np.empty(len(codes), np.int32)
    count = start = 0
    for text in range(len(span_offsets) - 1):
        for span in range(span_offsets[text], span_offsets[text + 1]):
            end = np.int64(span_ends[span])
            if is_chinese[span]:
                count = _cut_span(codes, start, end, model, scratch, with_unknown, ends, count)
            else:
                ends[count] = end
                count += 1
            start = end
        offsets[text + 1] = count
    return offsets, ends[:count].copy()


@entry
def join_words(codes: UInt32Array, ends: Int32Array, separator: int) -> UInt32Array:
    """Code points of one text with `separator` between its words, which end at `ends`."""
    joined = np.empty(len(codes) + len(ends) - 1, np.uint32)
    size = start = 0
    for word in range(len(ends)):
        if word:
            joined[size] = separator
            size += 1
        for position in range(start, ends[word]):
            joined[size] = codes[position]
            size += 1
        start = ends[word]
    return joined
