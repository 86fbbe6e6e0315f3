"""Compiled loops of the keyphrases: received attention, containment, fusion.

Every sum runs over one document in the order of its text, without fast-math, so that a document
gets the same bits in whatever block.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def sum_attention(
    unit_offsets: Int64Array,
    unit_starts: Int32Array,
    unit_ends: Int32Array,
    attention: Float32Array,
    occurrence_offsets: Int64Array,
    starts: Int32Array,
    ends: Int32Array,
    phrases: Int64Array,
    num_phrases: int,
) -> Float64Array:
    """Attention received by the sub-words that overlap a phrase's occurrences: (num_phrases,).

    A sub-word overlaps [start, end) if it begins before `end` and does not end at or before
    `start`; sub-words come in any order and may overlap each other (windows of long documents).
    Two sorted prefix sums give each occurrence in logarithmic time.
    """
    received = np.zeros(num_phrases)
    for document in range(len(unit_offsets) - 1):
        first, last = unit_offsets[document], unit_offsets[document + 1]
        if first == last:
            continue
        weights = attention[first:last]
        by_start = np.argsort(unit_starts[first:last], kind="mergesort")
        by_end = np.argsort(unit_ends[first:last], kind="mergesort")
        begun, ended = unit_starts[first:last][by_start], unit_ends[first:last][by_end]
        sum_begun = np.zeros(last - first + 1)
        sum_ended = np.zeros(last - first + 1)
        for k in range(last - first):
            sum_begun[k + 1] = sum_begun[k] + np.float64(weights[by_start[k]])
            sum_ended[k + 1] = sum_ended[k] + np.float64(weights[by_end[k]])
        for i in range(occurrence_offsets[document], occurrence_offsets[document + 1]):
            k = np.searchsorted(begun, ends[i], side="left")
            j = np.searchsorted(ended, starts[i], side="right")
            # Sums of the same attention in two orders differ by rounding.
            received[phrases[i]] += max(sum_begun[k] - sum_ended[j], 0.0)
    return received


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def containing_frequency(
    firsts: Int64Array, lengths: Int64Array, phrases: Int64Array, frequencies: Int64Array
) -> Int64Array:
    """Highest tf of a longer candidate that contains each candidate: (num_candidates,), 0 if none.

    Occurrences ascend by first token and, of those, by length.
    """
    highest = np.zeros(len(frequencies), dtype=np.int64)
    for outer in range(len(firsts)):
        end = firsts[outer] + lengths[outer]
        frequency = frequencies[phrases[outer]]
        inner = outer
        while inner > 0 and firsts[inner - 1] == firsts[outer]:
            inner -= 1
        while inner < len(firsts) and firsts[inner] < end:
            is_inside = firsts[inner] + lengths[inner] <= end
            if is_inside and lengths[inner] < lengths[outer]:
                highest[phrases[inner]] = max(highest[phrases[inner]], frequency)
            inner += 1
    return highest


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def log_of_sums(sums: Float64Array, scale: float, floor: float) -> Float64Array:
    """ln(scale * sum + floor), by the C library value by value."""
    logs = np.empty(len(sums))
    for i in range(len(sums)):
        logs[i] = math.log(scale * sums[i] + floor)
    return logs


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def standardise(
    offsets: Int64Array, features: Float64Array, min_deviations: Float64Array
) -> Float64Array:
    """Features less their mean within the document, in units of their deviation there.

    Args:
        offsets: (num_documents + 1,) where each document's candidates begin and end.
        features: (num_features, num_candidates).
        min_deviations: (num_features,) the least that each is divided by.

    Returns:
        (num_features, num_candidates); 0 where a feature is the same for all candidates.
    """
    standardised = np.zeros(features.shape)
    for document in range(len(offsets) - 1):
        first, last = offsets[document], offsets[document + 1]
        for feature in range(len(features)):
            values = features[feature]
            mean = 0.0
            for i in range(first, last):
                mean += values[i]
            mean /= max(last - first, 1)
            variance = 0.0
            for i in range(first, last):
                variance += (values[i] - mean) ** 2
            deviation = math.sqrt(variance / max(last - first, 1))
            # What rounding leaves of equal values is no difference.
            if deviation <= 1e-9 * (abs(mean) + 1.0):
                continue
            unit = max(deviation, min_deviations[feature])
            for i in range(first, last):
                standardised[feature, i] = (values[i] - mean) / unit
    return standardised


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fuse(
    offsets: Int64Array, features: Float64Array, min_deviations: Float64Array, weights: Float64Array
) -> Float64Array:
    """Weighted sum of features, each standardised within its document.

    Args:
        offsets: (num_documents + 1,) where each document's candidates begin and end.
        features: (num_features, num_candidates).
        min_deviations: (num_features,) as for `standardise`.
        weights: (num_documents, num_features).

    Returns:
        (num_candidates,); a feature that is the same for all candidates adds 0.
    """
    scores = np.zeros(features.shape[1])
    standardised = standardise(offsets, features, min_deviations)
    for document in range(len(offsets) - 1):
        for feature in range(len(features)):
            weight = weights[document, feature]
            if weight != 0.0:
                for i in range(offsets[document], offsets[document + 1]):
                    scores[i] += weight * standardised[feature, i]
    return scores
