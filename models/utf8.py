"""The bytes of Arrow strings, without a Python object for each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]


def utf8_buffers(strings: pa.Array) -> tuple[Int64Array, UInt8Array]:
    """(n + 1,) offsets and the UTF-8 bytes that they point into, without copying the bytes."""
    width = np.int64 if pa.types.is_large_string(strings.type) else np.int32
    _, offsets, data = strings.buffers()
    starts: Int64Array = np.zeros(1, np.int64)
    if offsets is not None and len(strings):
        found = np.frombuffer(offsets, dtype=width)
        starts = found[strings.offset :][: len(strings) + 1].astype(np.int64)
    text = np.frombuffer(b"" if data is None else data, dtype=np.uint8).view()
    # Arrow's buffers may be written or not, which kernels would be compiled for twice.
    text.flags.writeable = False
    return starts, text


def text_bytes(texts: pa.Array) -> tuple[UInt8Array, Int64Array]:
    """Bytes of (n,) string texts, and (n + 1,) where each begins and ends; null ones are empty."""
    offsets, data = utf8_buffers(texts.fill_null("") if texts.null_count else texts)
    return data, offsets
