"""Compiled loops over the bytes of many strings: hashes, and an open hash table."""

from __future__ import annotations

import numpy as np

from lexbeam.models.compiled import (
    Int32Array,
    Int64Array,
    Integer,
    UInt8Array,
    UInt64Array,
    entry,
    helper,
)

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@helper
def _hash(data: UInt8Array, start: Integer, end: Integer) -> Integer:
    hashed = np.uint64(end - start)
    for position in range(start, end):
        hashed = (hashed ^ np.uint64(data[position])) * _MULTIPLIER
        hashed ^= hashed >> _HALF
    return hashed


@entry
def hash_strings(data: UInt8Array, offsets: Int64Array) -> UInt64Array:
    """(n,) hashes of the strings between (n + 1,) offsets."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(hashes)):
        hashes[row] = _hash(data, offsets[row], offsets[row + 1])
    return hashes


@entry
def fill_slots(hashes: UInt64Array) -> Int32Array:
    """An open hash table, at most half full: row + 1 in each slot, 0 where it is free."""
    size = 1
    while size < 2 * len(hashes):
        size *= 2
    slots = np.zeros(size, np.int32)
    for row in range(len(hashes)):
        slot = np.int64(hashes[row] >> _HALF) & (size - 1)
        while slots[slot]:
            slot = (slot + 1) & (size - 1)
        slots[slot] = row + 1
    return slots


@helper
def _equal(
    data: UInt8Array,
    start: Integer,
    end: Integer,
    other: UInt8Array,
    other_start: Integer,
    other_end: Integer,
) -> bool:
    if end - start != other_end - other_start:
        return False
    for place in range(end - start):
        if data[start + place] != other[other_start + place]:
            return False
    return True


@entry
def find_strings(
    slots: Int32Array,
    hashes: UInt64Array,
    data: UInt8Array,
    offsets: Int64Array,
    wanted_hashes: UInt64Array,
    wanted_data: UInt8Array,
    wanted_offsets: Int64Array,
) -> Int64Array:
    """Row of each wanted string among those of a table, or -1.

    Args:
        slots: of the table, see `fill_slots`.
        hashes: of its strings.
        data: their bytes.
        offsets: (n + 1,) where each begins and ends.
        wanted_hashes: of the strings that are looked for.
        wanted_data: their bytes.
        wanted_offsets: where each begins and ends.
    """
    rows = np.full(len(wanted_hashes), -1, np.int64)
    mask = len(slots) - 1
    for index in range(len(rows)):
        hashed = wanted_hashes[index]
        start, end = wanted_offsets[index], wanted_offsets[index + 1]
        slot = np.int64(hashed >> _HALF) & mask
        while slots[slot]:
            row = np.int64(slots[slot]) - 1
            # Equal hashes are not yet equal strings.
            if hashes[row] == hashed and _equal(
                data, offsets[row], offsets[row + 1], wanted_data, start, end
            ):
                rows[index] = row
                break
            slot = (slot + 1) & mask
    return rows
