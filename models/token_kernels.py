"""Compiled steps from contents to tokens: code points, distinct pieces, white space and stops."""

from __future__ import annotations

import numpy as np

from lexbeam.models.compiled import (
    Int8Array,
    Int32Array,
    Int64Array,
    Integer,
    UInt8Array,
    UInt32Array,
    UInt64Array,
    entry,
    helper,
)
from lexbeam.models.schemas import PUNCTUATION, SENTENCE_END

# Kinds that are settled by what stands beside the token.
SPACE, BREAK, DOTS = 16, 17, 18

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HIGH = np.uint64(32)


@entry
def decode_utf8(data: UInt8Array, offsets: Int64Array) -> tuple[UInt32Array, Int64Array]:
    """Code points of valid UTF-8.

    Args:
        data: bytes.
        offsets: (num_texts + 1,) where each text begins and ends in `data`.

    Returns:
        Code points of all texts, end to end, and (num_texts + 1,) where each begins and ends.
    """
    codes = np.empty(offsets[-1] - offsets[0], np.uint32)
    ends = np.zeros(len(offsets), np.int64)
    size = 0
    position = offsets[0]
    for text in range(len(offsets) - 1):
        while position < offsets[text + 1]:
            first = np.uint32(data[position])
            if first < 0x80:
                codes[size] = first
                position += 1
            elif first < 0xE0:
                codes[size] = (first & 0x1F) << 6 | (data[position + 1] & 0x3F)
                position += 2
            elif first < 0xF0:
                code = (first & 0x0F) << 12 | np.uint32(data[position + 1] & 0x3F) << 6
                codes[size] = code | (data[position + 2] & 0x3F)
                position += 3
            else:
                code = (first & 0x07) << 18 | np.uint32(data[position + 1] & 0x3F) << 12
                code |= np.uint32(data[position + 2] & 0x3F) << 6
                codes[size] = code | (data[position + 3] & 0x3F)
                position += 4
            size += 1
        ends[text + 1] = size
    return codes[:size].copy(), ends


@helper
def _equal(
    codes: UInt32Array, first: Integer, others: UInt32Array, second: Integer, length: Integer
) -> bool:
    for place in range(length):
        if codes[first + place] != others[second + place]:
            return False
    return True


@helper
def _hash(codes: UInt32Array, start: Integer, end: Integer, seed: Integer) -> Integer:
    hashed = np.uint64(seed + 1) * _MULTIPLIER
    for position in range(start, end):
        hashed = (hashed ^ np.uint64(codes[position])) * _MULTIPLIER
        hashed ^= hashed >> _HIGH
    return hashed


@entry
def distinct_pieces(
    codes: UInt32Array, text_pieces: Int64Array, groups: Int8Array, ends: Int32Array
) -> tuple[Int32Array, UInt32Array, Int64Array, Int8Array]:
    """Number the distinct ones among the pieces of texts, in order of first appearance.

    Args:
        codes: code points; the pieces divide them without a rest.
        text_pieces: (num_texts + 1,) first piece of each text.
        groups: (num_texts,) equal pieces in texts of different groups are different.
        ends: (num_pieces,) where each piece ends.

    Returns:
        (num_pieces,) int32 numbers; code points of the distinct pieces, end to end,
        (num_distinct,) int64 where each ends, and (num_distinct,) int8 the group of each.
    """
    size = 1
    while size < 2 * len(ends):
        size *= 2
    # Number + 1 of the piece in each slot of an open hash table.
    slots = np.zeros(size, np.int32)
    numbers = np.empty(len(ends), np.int32)
    hashes, spans = np.empty(len(ends), np.uint64), np.empty((len(ends), 2), np.int32)
    piece_groups = np.empty(len(ends), np.int8)
    start: Integer = 0
    number: Integer
    num_distinct = num_codes = 0
    for text in range(len(groups)):
        for piece in range(text_pieces[text], text_pieces[text + 1]):
            end = np.int64(ends[piece])
            hashed = _hash(codes, start, end, groups[text])
            slot = np.int64(hashed >> _HIGH) & (size - 1)
            number = np.int64(slots[slot]) - 1
            while number >= 0:
                # Pieces that share a hash may still differ.
                other, length = spans[number, 0], spans[number, 1]
                if hashes[number] == hashed and piece_groups[number] == groups[text]:
                    if length == end - start and _equal(codes, other, codes, start, length):
                        break
                slot = (slot + 1) & (size - 1)
                number = np.int64(slots[slot]) - 1
            if number < 0:
                number = num_distinct
                slots[slot] = number + 1
                hashes[number], piece_groups[number] = hashed, groups[text]
                spans[number, 0], spans[number, 1] = start, end - start
                num_distinct += 1
                num_codes += end - start
            numbers[piece] = number
            start = end
    copied, copied_ends = _copy_spans(codes, spans[:num_distinct], num_codes)
    return numbers, copied, copied_ends, piece_groups[:num_distinct].copy()


@helper
def _copy_spans(
    codes: UInt32Array, spans: Int32Array, num_codes: Integer
) -> tuple[UInt32Array, Int64Array]:
    """Code points of the spans (start, length), end to end, and where each ends."""
    copied, ends = np.empty(num_codes, np.uint32), np.empty(len(spans), np.int64)
    size = 0
    for span in range(len(spans)):
        for place in range(spans[span, 1]):
            copied[size] = codes[spans[span, 0] + place]
            size += 1
        ends[span] = size
    return copied, ends


@entry
def hash_pieces(codes: UInt32Array, ends: Int64Array, groups: Int8Array) -> UInt64Array:
    """(n,) hash of each of the pieces that end at `ends`, with its group."""
    hashes = np.empty(len(ends), np.uint64)
    start: Integer = 0
    for piece in range(len(ends)):
        hashes[piece] = _hash(codes, start, ends[piece], groups[piece])
        start = ends[piece]
    return hashes


@helper
def _start(ends: Int64Array, row: Integer) -> Integer:
    return ends[row - 1] if row else 0


@entry
def find_pieces(
    slots: Int32Array,
    hashes: UInt64Array,
    codes: UInt32Array,
    ends: Int64Array,
    groups: Int8Array,
    wanted_hashes: UInt64Array,
    wanted_codes: UInt32Array,
    wanted_ends: Int64Array,
    wanted_groups: Int8Array,
) -> Int64Array:
    """Row of each wanted piece in a table, or -1.

    Args:
        slots: of the table: row + 1 in each slot, 0 where it is free.
        hashes: of its pieces.
        codes: their code points, end to end.
        ends: where each ends.
        groups: group of each.
        wanted_hashes: of the pieces that are looked for; likewise the others.
        wanted_codes: their code points.
        wanted_ends: where each ends.
        wanted_groups: group of each.
    """
    rows = np.full(len(wanted_ends), -1, np.int64)
    mask = len(slots) - 1
    for piece in range(len(wanted_ends)):
        hashed, start = wanted_hashes[piece], _start(wanted_ends, piece)
        length = wanted_ends[piece] - start
        slot = np.int64(hashed >> _HIGH) & mask
        while slots[slot]:
            row: Integer = np.int64(slots[slot]) - 1
            if hashes[row] == hashed and groups[row] == wanted_groups[piece]:
                first = _start(ends, row)
                if ends[row] - first == length and _equal(
                    codes, first, wanted_codes, start, length
                ):
                    rows[piece] = row
                    break
            slot = (slot + 1) & mask
    return rows


@entry
def insert_rows(slots: Int32Array, hashes: UInt64Array, first: int, last: int) -> None:
    """Put rows of a table from `first` to `last` into its slots, of which half stay free."""
    mask = len(slots) - 1
    for row in range(first, last):
        slot = np.int64(hashes[row] >> _HIGH) & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = row + 1


@entry
def take_pieces(
    codes: UInt32Array, ends: Int64Array, chosen: Int64Array
) -> tuple[UInt32Array, Int64Array]:
    """Code points of some of the pieces, end to end, and where each ends."""
    size: Integer = 0
    for piece in chosen:
        size += ends[piece] - _start(ends, piece)
    taken, taken_ends = np.empty(size, np.uint32), np.empty(len(chosen), np.int64)
    size = 0
    for index in range(len(chosen)):
        for position in range(_start(ends, chosen[index]), ends[chosen[index]]):
            taken[size] = codes[position]
            size += 1
        taken_ends[index] = size
    return taken, taken_ends


@entry
def take_tokens(
    data: UInt8Array, ends: Int64Array, rows: Int64Array
) -> tuple[UInt8Array, Int64Array]:
    """Bytes of the tokens at `rows`, end to end, and (len(rows) + 1,) where each begins."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    for index in range(len(rows)):
        length = ends[rows[index]] - _start(ends, rows[index])
        offsets[index + 1] = offsets[index] + length
    taken = np.empty(offsets[-1], np.uint8)
    for index in range(len(rows)):
        first = _start(ends, rows[index])
        for place in range(offsets[index + 1] - offsets[index]):
            taken[offsets[index] + place] = data[first + place]
    return taken, offsets


@helper
def _is_blank(kind: Integer) -> bool:
    return kind == SPACE or kind == BREAK


@entry
def resolve_pieces(
    text_offsets: Int64Array,
    text_pieces: Int64Array,
    numbers: Int32Array,
    ends: Int32Array,
    kinds: Int8Array,
    line_feed: int,
) -> tuple[Int32Array, Int32Array, Int8Array, Int32Array, Int32Array]:
    """From pieces to tokens: runs of white space merged or left out, full stops judged.

    Args:
        text_offsets: (num_texts + 1,) where each text begins in the code points.
        text_pieces: (num_texts + 1,) first piece of each text.
        numbers: (num_pieces,) which distinct piece each is.
        ends: (num_pieces,) where each ends in the code points.
        kinds: (num_distinct,) kind of each, or `SPACE`, `BREAK`, `DOTS`.
        line_feed: number that stands for a run of white space with a line break.

    Returns:
        (num_texts + 1,) int32 first token of each text; of each token the number (int32), kind
        (int8), start and end (int32, code points of its text).
    """
    offsets = np.zeros(len(text_offsets), np.int32)
    token_numbers, token_kinds = np.empty(len(ends), np.int32), np.empty(len(ends), np.int8)
    token_starts, token_ends = np.empty(len(ends), np.int32), np.empty(len(ends), np.int32)
    count = 0
    for text in range(len(text_offsets) - 1):
        base = text_offsets[text]
        start = base
        piece, last = text_pieces[text], text_pieces[text + 1]
        while piece < last:
            number = numbers[piece]
            kind = kinds[number]
            has_break = kind == BREAK
            is_blank = _is_blank(kind)
            end = np.int64(ends[piece])
            piece += 1
            while is_blank and piece < last and _is_blank(kinds[numbers[piece]]):
                has_break |= kinds[numbers[piece]] == BREAK
                end = np.int64(ends[piece])
                piece += 1
            if kind == DOTS:
                is_end = piece == last or _is_blank(kinds[numbers[piece]])
                kind = SENTENCE_END if is_end else PUNCTUATION
            if has_break:
                number, kind = line_feed, SENTENCE_END
            if has_break or not is_blank:
                token_numbers[count], token_kinds[count] = number, kind
                token_starts[count], token_ends[count] = start - base, end - base
                count += 1
            start = end
        offsets[text + 1] = count
    return (
        offsets,
        token_numbers[:count].copy(),
        token_kinds[:count].copy(),
        token_starts[:count].copy(),
        token_ends[:count].copy(),
    )


@entry
def count_classes(
    codes: UInt32Array, offsets: Int64Array, classes: UInt8Array, num_classes: int
) -> Int64Array:
    """Characters of each class in each text: (num_texts, num_classes).

    classes: class of each code point; its last entry stands for all code points beyond.
    """
    counts = np.zeros((len(offsets) - 1, num_classes), np.int64)
    for text in range(len(offsets) - 1):
        for position in range(offsets[text], offsets[text + 1]):
            counts[text, classes[min(codes[position], len(classes) - 1)]] += 1
    return counts
