"""Compiled steps of the tokenizer: code points, distinct pieces."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import token_kernels
from lexbeam.models.segment import code_points
from lexbeam.models.utf8 import text_bytes

QUICK = settings(deadline=None)
TEXTS = st.lists(st.one_of(st.none(), st.text()), max_size=6)


@QUICK
@given(TEXTS, st.integers(0, 3))
def test_code_points_are_those_of_python(texts: list[str | None], first: int) -> None:
    array = pa.array(texts, pa.string()).slice(min(first, len(texts)))
    codes, offsets = token_kernels.decode_utf8(*text_bytes(array))
    expected = [text or "" for text in texts[first:]]
    assert codes.tolist() == code_points("".join(expected)).tolist()
    assert offsets.tolist() == np.cumsum([0, *map(len, expected)]).tolist()


def test_a_null_row_with_bytes_below_it_is_empty() -> None:
    lengths = pa.py_buffer(np.array([0, 2, 4], np.int32).tobytes())
    valid = pa.py_buffer(bytes([0b10]))
    array = pa.Array.from_buffers(pa.string(), 2, [valid, lengths, pa.py_buffer(b"abcd")])
    assert array.to_pylist() == [None, "cd"]
    codes, offsets = token_kernels.decode_utf8(*text_bytes(array))
    assert (codes.tolist(), offsets.tolist()) == ([ord("c"), ord("d")], [0, 0, 2])


PIECES = st.lists(st.lists(st.text("ab中", min_size=1, max_size=3), max_size=8), max_size=4)


@QUICK
@given(PIECES, st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_distinct_pieces_are_numbered_as_they_come(texts: list[list[str]], of: list[int]) -> None:
    pieces = [piece for text in texts for piece in text]
    offsets = np.cumsum([0, *map(len, texts)])
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int32)
    groups = np.array(of[: len(texts)], np.int8)
    numbers, codes, stops, found = token_kernels.distinct_pieces(
        code_points("".join(pieces)), offsets, groups, ends
    )
    keys = [(group, piece) for group, text in zip(of, texts, strict=False) for piece in text]
    distinct = list(dict.fromkeys(keys))
    assert numbers.tolist() == [distinct.index(key) for key in keys]
    text = codes.tobytes().decode("utf-32-le")
    spelled = [text[start:end] for start, end in zip([0, *stops], stops, strict=False)]
    assert list(zip(found.tolist(), spelled, strict=True)) == distinct
