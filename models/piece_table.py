"""Pieces of text that a process has met, with the token and the kind of each.

Judging a piece takes Python; a piece that is known costs a look-up in compiled code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int8Array = npt.NDArray[np.int8]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]

# A full table begins anew; it holds about 30 bytes a piece, and the code points of all.
_MAX_PIECES = 1 << 19
_MAX_CODES = 1 << 23
# What an Arrow string array holds.
_MAX_BYTES = 2**31 - 1


class PieceTable:
    """Tokens and kinds by piece and group; safe for threads that share it.

    Args:
        judge: token and kind of a piece in a group; called once for each that is new.
    """

    def __init__(self, judge: Callable[[str, int], tuple[str, int]]) -> None:
        self._judge = judge
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._num_pieces = 0
        self._slots = np.zeros(2, np.int32)
        self._hashes = np.empty(0, np.uint64)
        self._groups, self._kinds = np.empty(0, np.int8), np.empty(0, np.int8)
        self._codes, self._ends = np.empty(0, np.uint32), np.empty(0, np.int64)
        self._tokens, self._token_ends = np.empty(0, np.uint8), np.empty(0, np.int64)

    def look_up(
        self, codes: UInt32Array, ends: Int64Array, groups: Int8Array
    ) -> tuple[Int8Array, pa.StringArray]:
        """Kind and token of pieces.

        Args:
            codes: code points of the pieces, end to end.
            ends: (n,) where each piece ends in `codes`.
            groups: (n,) group of each; equal pieces of different groups are different.

        Returns:
            (n,) int8 kinds, (n,) string tokens.

        Raises:
            ValueError: the tokens take 2 GiB or more (normalised, some characters become many).
        """
        from lexbeam.models import token_kernels

        hashes = token_kernels.hash_pieces(codes, ends, groups)
        with self._lock:
            if self._num_pieces > _MAX_PIECES or self._num_codes > _MAX_CODES:
                self._clear()
            rows = self._find(hashes, codes, ends, groups)
            unknown = np.flatnonzero(rows < 0)
            if len(unknown):
                self._add(hashes, codes, ends, groups, unknown)
                rows = self._find(hashes, codes, ends, groups)
            data, offsets = token_kernels.take_tokens(self._tokens, self._token_ends, rows)
            kinds = self._kinds[rows]
        if offsets[-1] > _MAX_BYTES:
            raise ValueError(f"the tokens of a block take {offsets[-1]} bytes, over {_MAX_BYTES}")
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return kinds, pa.Array.from_buffers(pa.string(), len(rows), buffers)

    @property
    def _num_codes(self) -> int:
        return int(self._ends[self._num_pieces - 1]) if self._num_pieces else 0

    def _find(
        self,
        hashes: npt.NDArray[np.uint64],
        codes: UInt32Array,
        ends: Int64Array,
        groups: Int8Array,
    ) -> Int64Array:
        """(n,) row of each piece, -1 where it is not there."""
        from lexbeam.models import token_kernels

        table = self._slots, self._hashes, self._codes, self._ends, self._groups
        return token_kernels.find_pieces(*table, hashes, codes, ends, groups)

    def _add(
        self,
        hashes: npt.NDArray[np.uint64],
        codes: UInt32Array,
        ends: Int64Array,
        groups: Int8Array,
        unknown: Int64Array,
    ) -> None:
        """Judge the unknown ones among pieces, all different, and take them in."""
        from lexbeam.models import token_kernels

        new_codes, new_ends = token_kernels.take_pieces(codes, ends, unknown)
        pieces = zip(strings_of(new_codes, new_ends), groups[unknown].tolist(), strict=True)
        judged = [self._judge(piece, group) for piece, group in pieces]
        encoded = [token.encode() for token, _ in judged]
        token_ends = np.cumsum([len(token) for token in encoded], dtype=np.int64)
        done, num_codes, num_bytes = self._num_pieces, self._num_codes, self._num_bytes
        self._hashes = _put(self._hashes, done, hashes[unknown])
        self._groups = _put(self._groups, done, groups[unknown])
        self._kinds = _put(self._kinds, done, np.array([kind for _, kind in judged], np.int8))
        self._ends = _put(self._ends, done, num_codes + new_ends)
        self._codes = _put(self._codes, num_codes, new_codes)
        self._token_ends = _put(self._token_ends, done, num_bytes + token_ends)
        new_bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._tokens = _put(self._tokens, num_bytes, new_bytes)
        self._num_pieces += len(unknown)
        if 2 * self._num_pieces > len(self._slots):
            self._slots, done = np.zeros(4 << self._num_pieces.bit_length(), np.int32), 0
        token_kernels.insert_rows(self._slots, self._hashes, done, self._num_pieces)

    @property
    def _num_bytes(self) -> int:
        return int(self._token_ends[self._num_pieces - 1]) if self._num_pieces else 0


def strings_of(codes: UInt32Array, ends: Int64Array) -> list[str]:
    """Texts that stand end to end."""
    text = codes.tobytes().decode("utf-32-le")
    stops = ends.tolist()
    return [text[start:end] for start, end in zip([0, *stops], stops, strict=False)]


def _put(array: npt.NDArray[Any], size: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array with `values` from place `size` on; with room for twice as many if it is full."""
    if size + len(values) > len(array):
        grown = np.empty(2 * (size + len(values)), array.dtype)
        grown[:size] = array[:size]
        array = grown
    array[size : size + len(values)] = values
    return array
