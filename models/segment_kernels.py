"""Compiled part of the segmenter: the hidden Markov model over unknown runs of characters.

Imported where text is cut, not before: numba is heavy.

States are numbered in the order of their letters, B(egin) 0, E(nd) 1, M(iddle) 2, S(ingle) 3, so
that of two equal scores the larger number wins, as it does among jieba's (score, letter) pairs.
Sums are taken in jieba's order, in float64 and without reassociation: equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
UInt32Array = npt.NDArray[np.uint32]
UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
_Function = TypeVar("_Function", bound=Callable[..., Any])

HAN_MIN, HAN_MAX = 0x4E00, 0x9FD5
BEGIN, END, MIDDLE, SINGLE = range(4)

_DOT, _PERCENT = ord("."), ord("%")
# Punctuation of a run: # % & + - . _
_NUMBER, _AMPERSAND, _PLUS, _HYPHEN, _UNDERSCORE = (ord(character) for character in "#&+-_")


def _entry(function: _Function) -> _Function:
    """Compiled, and cached on disk with all that it calls."""
    return cast(_Function, numba.njit(cache=True, nogil=True)(function))


def _helper(function: _Function) -> _Function:
    """Compiled into its callers alone: not called from Python, so not wrapped and not cached."""
    compile_function = numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    return cast(_Function, compile_function(function))


@_helper
def _is_han(code: int) -> bool:
    return HAN_MIN <= code <= HAN_MAX


@_helper
def _is_digit(code: int) -> bool:
    return 48 <= code <= 57


@_helper
def _is_alphanumeric(code: int) -> bool:
    return 48 <= code <= 57 or 65 <= code <= 90 or 97 <= code <= 122


@_helper
def _is_in_run(code: int) -> bool:
    """Whether jieba looks the character up, instead of making it a token of its own."""
    if _is_han(code) or _is_alphanumeric(code) or code == _DOT or code == _PERCENT:
        return True
    if code == _NUMBER or code == _AMPERSAND or code == _PLUS:
        return True
    return code == _HYPHEN or code == _UNDERSCORE


@_helper
def _is_unjoined(codes: UInt32Array, start: int, end: int) -> bool:
    """Whether a token is a single character, or letters and digits that rjieba has joined."""
    if end - start == 1:
        return _is_in_run(codes[start])
    for position in range(start, end):
        if not _is_alphanumeric(codes[position]):
            return False
    return True


@_helper
def _best_states(
    codes: UInt32Array,
    start: int,
    end: int,
    initial: FloatArray,
    transition: FloatArray,
    emission: FloatArray,
    before: UInt8Array,
    states: UInt8Array,
) -> None:
    """Viterbi path of `codes[start:end]` into `states[start:end]`; `before` is scratch."""
    first = emission[codes[start] - HAN_MIN]
    begin, stop = initial[BEGIN] + first[BEGIN], initial[END] + first[END]
    middle, single = initial[MIDDLE] + first[MIDDLE], initial[SINGLE] + first[SINGLE]
    for position in range(start + 1, end):
        row = emission[codes[position] - HAN_MIN]
        # B and S follow E or S; E and M follow B or M.
        from_end = stop + transition[END, BEGIN] + row[BEGIN]
        from_single = single + transition[SINGLE, BEGIN] + row[BEGIN]
        before[position, BEGIN] = END if from_end > from_single else SINGLE
        next_begin = max(from_end, from_single)
        from_begin = begin + transition[BEGIN, END] + row[END]
        from_middle = middle + transition[MIDDLE, END] + row[END]
        before[position, END] = BEGIN if from_begin > from_middle else MIDDLE
        next_stop = max(from_begin, from_middle)
        from_begin = begin + transition[BEGIN, MIDDLE] + row[MIDDLE]
        from_middle = middle + transition[MIDDLE, MIDDLE] + row[MIDDLE]
        before[position, MIDDLE] = BEGIN if from_begin > from_middle else MIDDLE
        next_middle = max(from_begin, from_middle)
        from_end = stop + transition[END, SINGLE] + row[SINGLE]
        from_single = single + transition[SINGLE, SINGLE] + row[SINGLE]
        before[position, SINGLE] = END if from_end > from_single else SINGLE
        begin, stop, middle, single = next_begin, next_stop, next_middle, max(from_end, from_single)
    state = END if stop > single else SINGLE
    for position in range(end - 1, start - 1, -1):
        states[position] = state
        if position > start:
            state = before[position, state]


@_helper
def _divide_han(states: UInt8Array, start: int, end: int, ends: Int32Array, count: int) -> int:
    """Append the ends of the words that `states[start:end]` spell; returns the new count."""
    done = start
    for position in range(start, end):
        if states[position] == END or states[position] == SINGLE:
            done = position + 1
            ends[count] = done
            count += 1
    if done < end:
        ends[count] = end
        count += 1
    return count


@_helper
def _divide_ascii(codes: UInt32Array, start: int, end: int, ends: Int32Array, count: int) -> int:
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


@_helper
def _divide_run(
    codes: UInt32Array,
    start: int,
    end: int,
    initial: FloatArray,
    transition: FloatArray,
    emission: FloatArray,
    before: UInt8Array,
    states: UInt8Array,
    ends: Int32Array,
    count: int,
) -> int:
    """Append the ends of the words of a run of Han and ASCII; returns the new count."""
    position = start
    while position < end:
        is_han = _is_han(codes[position])
        stop = position + 1
        while stop < end and _is_han(codes[stop]) == is_han:
            stop += 1
        if is_han:
            _best_states(codes, position, stop, initial, transition, emission, before, states)
            count = _divide_han(states, position, stop, ends, count)
        else:
            count = _divide_ascii(codes, position, stop, ends, count)
        position = stop
    return count


@_helper
def _find_runs(
    joined: UInt32Array,
    separator: int,
    known: BoolArray,
    codes: UInt32Array,
    token_ends: Int32Array,
) -> Int32Array:
    """Runs of two or more characters that the dictionary did not join.

    Fills `codes` (the text) and `token_ends`. Returns (runs, 4): first token, token after the
    last, start, end in code points.
    """
    size = len(joined)
    runs = np.empty((size // 2 + 1, 4), np.int32)
    num_runs = length = token = token_start = run_start = 0
    run_token = -1
    for index in range(size + 1):
        if index < size and joined[index] != separator:
            codes[length] = joined[index]
            length += 1
            continue
        token_ends[token] = length
        is_known = len(known) > 0 and known[token]
        is_unjoined = _is_unjoined(codes, token_start, length) and not is_known
        if is_unjoined and run_token < 0:
            run_token, run_start = token, token_start
        token += 1
        if run_token >= 0 and (index == size or not is_unjoined):
            run_end = length if is_unjoined else token_start
            if run_end - run_start > 1:
                runs[num_runs, 0] = run_token
                runs[num_runs, 1] = token if is_unjoined else token - 1
                runs[num_runs, 2] = run_start
                runs[num_runs, 3] = run_end
                num_runs += 1
            run_token = -1
        token_start = length
    return runs[:num_runs]


@_entry
def divide_runs(
    joined: UInt32Array,
    separator: int,
    known: BoolArray,
    initial: FloatArray,
    transition: FloatArray,
    emission: FloatArray,
    report_all: bool,
) -> tuple[Int32Array, Int32Array]:
    """Divide the runs that the dictionary left as single characters, as jieba's `finalseg` does.

    Args:
        joined: code points of the tokens, with `separator` between them; not empty.
        separator: a code point outside of runs that is not in the text.
        known: (tokens,) True for tokens of letters and digits that are dictionary words; or empty.
        initial: (4,) log probabilities.
        transition: (4, 4) log probabilities, from row to column.
        emission: (HAN_MAX - HAN_MIN + 1, 4) log probabilities.
        report_all: give every run, not only those whose division differs from the tokens.

    Returns:
        (runs, 5) int32: first token, token after the last, start in code points of the text, first
        and last + 1 index of its words; and (words,) int32 ends of the words in code points.
    """
    size = len(joined)
    codes = np.empty(size, np.uint32)
    token_ends = np.empty(size + 1, np.int32)
    found = _find_runs(joined, separator, known, codes, token_ends)
    before, states = np.empty((size, 4), np.uint8), np.empty(size, np.uint8)
    ends = np.empty(size, np.int32)
    runs = np.empty((len(found), 5), np.int32)
    num_runs = count = 0
    for run in range(len(found)):
        first, after, start, end = found[run, 0], found[run, 1], found[run, 2], found[run, 3]
        new = _divide_run(
            codes, start, end, initial, transition, emission, before, states, ends, count
        )
        differs = report_all or new - count != after - first
        for word in range(count, new):
            differs = differs or ends[word] != token_ends[first + word - count]
        if differs:
            runs[num_runs, 0], runs[num_runs, 1], runs[num_runs, 2] = first, after, start
            runs[num_runs, 3], runs[num_runs, 4] = count, new
            num_runs += 1
            count = new
    return runs[:num_runs].copy(), ends[:count].copy()
