"""Phrases as runs of token codes, and their strings; nothing here is a Python object a phrase."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models.phrase_kernels import number_runs
from lexbeam.models.token_blocks import BoolArray, Int64Array, TokenBlock
from lexbeam.models.word_flags import BEGINS_HAN, ENDS_HAN


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
    same[1:] = block.documents[1:] == block.documents[:-1]
    ends, begins = block.flags[:-1] & ENDS_HAN != 0, block.flags[1:] & BEGINS_HAN != 0
    same[1:] &= ~(ends & begins & space_before(block)[1:])
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
    return number_runs(firsts, lengths, codes, space_before(block))


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
