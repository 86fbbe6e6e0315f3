"""Look-up of many strings at once: a hash table over an Arrow array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.utf8 import utf8_buffers

Int64Array = npt.NDArray[np.int64]


class StringIndex:
    """Where each of some distinct strings stands.

    Args:
        strings: (n,) string or large_string without nulls, no two alike.
    """

    def __init__(self, strings: pa.Array) -> None:
        from lexbeam.models import string_kernels

        self._offsets, self._data = utf8_buffers(strings)
        self._hashes = string_kernels.hash_strings(self._data, self._offsets)
        self._slots = string_kernels.fill_slots(self._hashes)
        # What the buffers belong to.
        self._strings = strings

    def find(self, wanted: pa.Array) -> Int64Array:
        """(len(wanted),) int64, the row of each string without nulls; -1 where it is not there."""
        from lexbeam.models import string_kernels

        offsets, data = utf8_buffers(wanted)
        hashes = string_kernels.hash_strings(data, offsets)
        table = self._slots, self._hashes, self._data, self._offsets
        return string_kernels.find_strings(*table, hashes, data, offsets)
