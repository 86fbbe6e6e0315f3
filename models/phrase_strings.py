"""Phrases as runs of token codes, and their strings; nothing here is a Python object a phrase."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models.token_blocks import BoolArray, Int64Array, TokenBlock

_HAN = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


@functools.lru_cache(maxsize=2**16)
def is_han(character: str) -> bool:
    """Whether a character is an ideograph."""
    return any(first <= ord(character) <= last for first, last in _HAN)


def factorize(values: Int64Array) -> tuple[npt.NDArray[np.int64], Int64Array]:
    """Dense numbers for values, in order of first appearance.

    Returns:
        (n,) the number of each value, and (num_distinct,) the place where each first stands.
    """
    codes = np.asarray(pa.array(values).dictionary_encode().indices, dtype=np.int64)
    first = np.zeros(int(codes.max(initial=-1)) + 1, dtype=np.int64)
    # Of several assignments to one place the last stays.
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return codes, first


def space_before(block: TokenBlock) -> BoolArray:
    """(num_tokens,) whether there is a gap between a token and the one before it."""
    gaps = np.zeros(len(block.codes), dtype=np.bool_)
    gaps[1:] = block.starts[1:] > block.ends[:-1]
    return gaps


def follows(block: TokenBlock) -> BoolArray:
    """(num_tokens,) whether a token continues the phrase of the one before it.

    Both stand in one document, and there is no gap between them, or a gap with a word that is not
    Han beside it: a space between two Han words divides them.
    """
    same = np.zeros(len(block.codes), dtype=np.bool_)
    if not len(same):
        return same
    same[1:] = block.documents[1:] == block.documents[:-1]
    strings = block.terms.to_pylist()
    begins = np.fromiter((is_han(word[:1] or " ") for word in strings), np.bool_, len(strings))
    ends = np.fromiter((is_han(word[-1:] or " ") for word in strings), np.bool_, len(strings))
    divided = ends[block.codes[:-1]] & begins[block.codes[1:]]
    same[1:] &= ~(divided & space_before(block)[1:])
    return same


def run_ids(
    block: TokenBlock, firsts: Int64Array, lengths: Int64Array, codes: npt.NDArray[np.int32]
) -> tuple[Int64Array, Int64Array]:
    """Numbers of equal runs of tokens.

    Args:
        block: the tokens.
        firsts: (num_runs,) first token of each run.
        lengths: (num_runs,) tokens of each run, at least 1.
        codes: (num_tokens,) what is compared; runs that differ in their gaps differ too.

    Returns:
        (num_runs,) numbers in order of first appearance, (num_distinct,) where each first stands.
    """
    # Room for every code with and without a gap, and for nothing (0).
    spaced = 2 * codes.astype(np.int64) + 1 + space_before(block)
    base = int(spaced.max(initial=0)) + 1
    ids, _ = factorize(codes[firsts].astype(np.int64))
    for place in range(1, int(lengths.max(initial=1))):
        reaches = lengths > place
        column = np.zeros(len(firsts), dtype=np.int64)
        column[reaches] = spaced[firsts[reaches] + place]
        ids, _ = factorize(ids * base + column)
    return factorize(ids)


def run_strings(
    block: TokenBlock,
    firsts: Int64Array,
    lengths: Int64Array,
    codes: npt.NDArray[np.int32],
    strings: pa.StringArray,
    always_space: BoolArray,
) -> pa.StringArray:
    """Strings of runs of tokens.

    Args:
        block: the tokens.
        firsts: (num_runs,) first token of each run.
        lengths: (num_runs,) tokens of each run, at least 1.
        codes: (num_tokens,) indices into `strings`.
        strings: what stands for each code.
        always_space: (num_runs,) whether a space joins the tokens, or the gap in the text does
            (as one space).

    Returns:
        (num_runs,) string.
    """
    after_space = pc.binary_join_element_wise("", strings, " ")
    choices = pa.concat_arrays([strings, after_space])
    gaps = space_before(block)
    columns = [strings.take(pa.array(codes[firsts]))]
    for place in range(1, int(lengths.max(initial=1))):
        reaches = lengths > place
        tokens = np.where(reaches, firsts + place, 0)
        spaced = gaps[tokens] | always_space
        indices = codes[tokens].astype(np.int64) + spaced * len(strings)
        columns.append(choices.take(pa.array(indices, mask=~reaches)))
    joined = pc.binary_join_element_wise(*columns, "", null_handling="skip")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
