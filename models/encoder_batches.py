"""Cuts windows into batches: sorted by length, under a token budget, little padding.

A pure function of the token counts, so that a split always gives the same batches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

MAX_PADDING_RATIO = 1.10


def plan_batches(
    lengths: npt.NDArray[np.integer], max_batch_tokens: int, max_padding: float = MAX_PADDING_RATIO
) -> list[Int64Array]:
    """Indices of the windows of each batch, longest windows first.

    lengths: (n,) tokens a window, special tokens included. max_batch_tokens: longest window x
    windows of a batch, at most; a longer window goes alone. max_padding: (real + padding) /
    real tokens of a batch, at most. Every index is in exactly one batch; equal lengths keep
    their order.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches: list[Int64Array] = []
    start = 0
    real = 0
    for position, index in enumerate(order):
        length = int(lengths[index])
        longest = int(lengths[order[start]])
        padded = longest * (position - start + 1)
        if position > start and (
            padded > max_batch_tokens or padded > max_padding * (real + length)
        ):
            batches.append(order[start:position])
            start, real = position, 0
        real += length
    if start < len(order):
        batches.append(order[start:])
    return batches


def pad_batch(windows: list[npt.NDArray[np.int32]], pad_id: int) -> tuple[Int64Array, Int64Array]:
    """Stack windows of token ids; (n, longest) int64 ids and mask, 1 for a real token."""
    longest = max(len(window) for window in windows)
    ids = np.full((len(windows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(windows), longest), dtype=np.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = window
        mask[row, : len(window)] = 1
    return ids, mask
