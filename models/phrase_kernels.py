"""Compiled loops over runs of tokens: which are equal, in a block and within a document."""

from __future__ import annotations

import numpy as np

from lexbeam.models.compiled import (
    BoolArray,
    Float32Array,
    Int32Array,
    Int64Array,
    Integer,
    entry,
    helper,
)

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@helper
def _unit(codes: Int32Array, gaps: BoolArray, first: Integer, place: Integer) -> Integer:
    """Token at a place of a run; after the first one with the gap before it."""
    code = np.int64(codes[first + place]) * 2
    return code + 1 if place > 0 and gaps[first + place] else code


@helper
def _equal(
    codes: Int32Array, gaps: BoolArray, first: Integer, second: Integer, length: Integer
) -> bool:
    for place in range(length):
        if _unit(codes, gaps, first, place) != _unit(codes, gaps, second, place):
            return False
    return True


@entry
def number_runs(
    firsts: Int64Array, lengths: Int64Array, codes: Int32Array, gaps: BoolArray
) -> tuple[Int64Array, Int64Array]:
    """Number equal runs of tokens in order of first appearance.

    Args:
        firsts: (num_runs,) first token of each.
        lengths: (num_runs,) tokens of each, at least 1.
        codes: (num_tokens,) what is compared.
        gaps: (num_tokens,) whether there is a gap before the token: compared within a run.

    Returns:
        (num_runs,) numbers, (num_distinct,) the run where each first stands.
    """
    size = 1
    while size < 2 * len(firsts):
        size *= 2
    # Number + 1 of the run in each slot of an open hash table.
    slots = np.zeros(size, np.int32)
    numbers, leads = np.empty(len(firsts), np.int64), np.empty(len(firsts), np.int64)
    hashes = np.empty(len(firsts), np.uint64)
    number: Integer
    count = 0
    for run in range(len(firsts)):
        first, length = firsts[run], lengths[run]
        hashed = np.uint64(length)
        for place in range(length):
            hashed = (hashed ^ np.uint64(_unit(codes, gaps, first, place))) * _MULTIPLIER
            hashed ^= hashed >> _HALF
        slot = np.int64(hashed >> _HALF) & (size - 1)
        number = np.int64(slots[slot]) - 1
        while number >= 0:
            lead = leads[number]
            if hashes[number] == hashed and lengths[lead] == length:
                if _equal(codes, gaps, firsts[lead], first, length):
                    break
            slot = (slot + 1) & (size - 1)
            number = np.int64(slots[slot]) - 1
        if number < 0:
            number = count
            slots[slot] = number + 1
            hashes[number], leads[number] = hashed, run
            count += 1
        numbers[run] = number
    return numbers, leads[:count].copy()


@entry
def number_by_document(
    documents: Int64Array, keys: Int64Array, num_keys: int
) -> tuple[Int64Array, Int64Array]:
    """Number equal keys within each document, in order of first appearance.

    Args:
        documents: (n,) ascending.
        keys: (n,) each in range(num_keys).
        num_keys: how many there are.

    Returns:
        (n,) numbers, (num_distinct,) the place where each first stands.
    """
    last_document = np.full(num_keys, -1, np.int64)
    last_number = np.empty(num_keys, np.int64)
    numbers, leads = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    count = 0
    for place in range(len(keys)):
        key = keys[place]
        if last_document[key] != documents[place]:
            last_document[key], last_number[key] = documents[place], count
            leads[count] = place
            count += 1
        numbers[place] = last_number[key]
    return numbers, leads[:count].copy()


@helper
def _ascending(values: Float32Array, size: Integer, place: Integer) -> Integer:
    """The value that stands at `place` of the sorted first `size` values; reorders them.

    Hoare's selection. NumPy's costs seconds to compile.
    """
    low: Integer = 0
    high: Integer = size - 1
    while low < high:
        pivot = values[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while values[right] > pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if place <= right:
            high = right
        elif place >= left:
            low = left
        else:
            break
    return values[place]


@entry
def best_places(
    offsets: Int64Array, scores: Float32Array, allowed: BoolArray, quotas: Int64Array
) -> Int64Array:
    """Places of each document's best scores, and of all that tie with the last of them.

    Args:
        offsets: (num_documents + 1,) where each document's scores begin and end.
        scores: (n,).
        allowed: (n,) which may be chosen.
        quotas: (num_documents,) how many are wanted, at least 1.

    Returns:
        Places, ascending.
    """
    chosen = np.empty(len(scores), np.int64)
    pool = np.empty(len(scores), np.float32)
    count = 0
    for document in range(len(offsets) - 1):
        size = 0
        for place in range(offsets[document], offsets[document + 1]):
            if allowed[place]:
                pool[size] = scores[place]
                size += 1
        threshold = np.float32(-np.inf)
        if size > quotas[document]:
            threshold = _ascending(pool, size, size - quotas[document])
        for place in range(offsets[document], offsets[document + 1]):
            if allowed[place] and scores[place] >= threshold:
                chosen[count] = place
                count += 1
    return chosen[:count].copy()
