"""Compiled inner loops of LDA: E-step, fold-in, held-out likelihood, keywords, coherence.

Bit for bit the same everywhere: no fast-math, no reduction that a compiler could reorder, no
library logarithm. A document's rows of `topic_term` are copied once into two layouts, terms x
topics and topics x terms, so that every inner loop adds element by element and still vectorises.
A long document is taken tile by tile in the same order, which bounds the scratch memory and
changes no bit.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LIKELIHOOD_BITS = 20  # log-likelihoods are summed in units of 2^-20 nats
_LIKELIHOOD_SCALE = float(1 << LIKELIHOOD_BITS)
_TILE_VALUES = 1 << 16  # terms x topics of a tile: 512 KiB a layout, inside a core's cache
_LANES = 8  # terms transposed together: a cache line of float64
_LN2 = math.log(2.0)
_SQRT_HALF = math.sqrt(0.5)


def _compiled(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True)(function)


@_compiled
def natural_log(x: float) -> float:
    """Natural logarithm of a positive normal float64, to 2 ulp, from + - * / only.

    log(m 2^e) = e log 2 + 2 artanh((m - 1) / (m + 1)), with m in [sqrt(1/2), sqrt(2)).
    """
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = 1.0 / 23.0
    for odd in range(21, 0, -2):
        series = series * square + 1.0 / odd
    return exponent * _LN2 + 2.0 * s * series


@_compiled
def _gather(topic_term: Floats, term_ids: Ids, rows: Floats, columns: Floats) -> None:
    """Copy the rows of `term_ids` into both layouts.

    rows: (>= terms, num_topics). columns: flat, topic k of term j at k * terms + j, without gaps:
    a stride that is the same for every document would meet the same few cache sets.
    """
    num_terms, num_topics = term_ids.size, topic_term.shape[1]
    for j in range(num_terms):
        source, row = topic_term[term_ids[j]], rows[j]
        for k in range(num_topics):
            row[k] = source[k]
    for begin in range(0, num_terms, _LANES):
        end = min(begin + _LANES, num_terms)
        for k in range(num_topics):
            for j in range(begin, end):
                columns[k * num_terms + j] = rows[j, k]


@_compiled
def _mix_topics(columns: Floats, theta: Floats, num_terms: int, mixed: Floats) -> None:
    """mixed[j] = sum over topics k, ascending, of theta[k] columns[k * num_terms + j]."""
    num_topics = theta.size
    for j in range(num_terms):
        mixed[j] = 0.0
    whole = num_topics - num_topics % 4
    for k in range(0, whole, 4):
        t0, t1, t2, t3 = theta[k], theta[k + 1], theta[k + 2], theta[k + 3]
        c0 = columns[k * num_terms : (k + 1) * num_terms]
        c1 = columns[(k + 1) * num_terms : (k + 2) * num_terms]
        c2 = columns[(k + 2) * num_terms : (k + 3) * num_terms]
        c3 = columns[(k + 3) * num_terms : (k + 4) * num_terms]
        for j in range(num_terms):
            mixed[j] = (((mixed[j] + t0 * c0[j]) + t1 * c1[j]) + t2 * c2[j]) + t3 * c3[j]
    for k in range(whole, num_topics):
        t0 = theta[k]
        c0 = columns[k * num_terms : (k + 1) * num_terms]
        for j in range(num_terms):
            mixed[j] += t0 * c0[j]


@_compiled
def _mix_terms(rows: Floats, ratios: Floats, num_terms: int, expected: Floats) -> None:
    """expected[k] += sum over terms j, ascending, of ratios[j] rows[j, k]."""
    num_topics = expected.size
    whole = num_terms - num_terms % 4
    for j in range(0, whole, 4):
        r0, r1, r2, r3 = ratios[j], ratios[j + 1], ratios[j + 2], ratios[j + 3]
        w0, w1, w2, w3 = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        for k in range(num_topics):
            expected[k] = (((expected[k] + r0 * w0[k]) + r1 * w1[k]) + r2 * w2[k]) + r3 * w3[k]
    for j in range(whole, num_terms):
        r0 = ratios[j]
        w0 = rows[j]
        for k in range(num_topics):
            expected[k] += r0 * w0[k]


@_compiled
def _tile_terms(num_topics: int) -> int:
    return max(32, _TILE_VALUES // num_topics)


@_compiled
def _update_theta(
    topic_term: Floats,
    term_ids: Ids,
    counts: Ids,
    prior: float,
    load: bool,
    theta: Floats,
    scratch: tuple[Floats, Floats, Floats, Floats],
) -> float:
    """One MAP step of a document: theta_k <- (prior + n_k) / (K prior + n). Returns the L1 change.

    `load` says that the scratch layouts do not hold this document's rows yet.
    """
    rows, columns, mixed, expected = scratch
    tile = rows.shape[0]
    expected[:] = 0.0
    length = 0.0
    for first in range(0, term_ids.size, tile):
        last = min(first + tile, term_ids.size)
        if load or term_ids.size > tile:
            _gather(topic_term, term_ids[first:last], rows, columns)
        _mix_topics(columns, theta, last - first, mixed)
        for j in range(last - first):
            mixed[j] = counts[first + j] / mixed[j]
        _mix_terms(rows, mixed, last - first, expected)
        for j in range(first, last):
            length += counts[j]
    total = theta.size * prior + length
    change = 0.0
    for k in range(theta.size):
        updated = (prior + theta[k] * expected[k]) / total
        change += abs(updated - theta[k])
        theta[k] = updated
    return change


@_compiled
def _scratch(num_topics: int) -> tuple[Floats, Floats, Floats, Floats]:
    tile = _tile_terms(num_topics)
    rows = np.empty((tile, num_topics))
    return rows, np.empty(num_topics * tile), np.empty(tile), np.empty(num_topics)


@_compiled
def _infer_theta(
    topic_term: Floats,
    term_ids: Ids,
    counts: Ids,
    prior: float,
    max_iterations: int,
    tolerance: float,
    theta: Floats,
    scratch: tuple[Floats, Floats, Floats, Floats],
) -> None:
    """From uniform, until the L1 change is below `tolerance` or `max_iterations` are done."""
    theta[:] = 1.0 / theta.size
    for iteration in range(max_iterations):
        change = _update_theta(topic_term, term_ids, counts, prior, iteration == 0, theta, scratch)
        if change < tolerance:
            break


@_compiled
def _contribute(
    topic_term: Floats,
    term_ids: Ids,
    counts: Ids,
    load: bool,
    theta: Floats,
    scale: float,
    sums: Ints,
    scratch: tuple[Floats, Floats, Floats, Floats],
) -> float:
    """Add a document's count x responsibility, in units of 1/scale; return its log-likelihood."""
    rows, columns, mixed, _ = scratch
    tile = rows.shape[0]
    likelihood = 0.0
    for first in range(0, term_ids.size, tile):
        last = min(first + tile, term_ids.size)
        if load or term_ids.size > tile:
            _gather(topic_term, term_ids[first:last], rows, columns)
        _mix_topics(columns, theta, last - first, mixed)
        for j in range(last - first):
            count = counts[first + j]
            likelihood += count * natural_log(mixed[j])
            ratio = count * scale / mixed[j]
            row, total = rows[j], sums[term_ids[first + j]]
            for k in range(theta.size):
                total[k] += np.int64(np.rint(ratio * row[k] * theta[k]))
    return likelihood


@_compiled
def e_step(
    indptr: Ints,
    term_ids: Ids,
    counts: Ids,
    skip: Bools,
    first: int,
    last: int,
    topic_term: Floats,
    prior: float,
    iterations: int,
    scale: float,
    sums: Ints,
) -> np.int64:
    """Add documents first..last of a CSR block to `sums`; those where `skip` are left out.

    theta starts at uniform and is updated iterations - 1 times; the responsibilities of the next
    iteration are the document's contribution.

    Args:
        indptr: (documents + 1,) int64.
        term_ids: (nnz,) int32, ascending within a document.
        counts: (nnz,) int32, positive.
        skip: (documents,) bool.
        first: first document.
        last: document after the last one.
        topic_term: (num_terms, num_topics) float64, p(term | topic).
        prior: doc_topic_prior (alpha).
        iterations: inner iterations, >= 1.
        scale: units of fixed point in a token, a power of two.
        sums: (num_terms, num_topics) int64, added to.

    Returns:
        The log-likelihood of the documents' tokens, in units of 2^-LIKELIHOOD_BITS nats.
    """
    num_topics = topic_term.shape[1]
    scratch = _scratch(num_topics)
    theta = np.empty(num_topics)
    likelihood = np.int64(0)
    for document in range(first, last):
        begin, end = indptr[document], indptr[document + 1]
        if skip[document] or begin == end:
            continue
        ids, weights = term_ids[begin:end], counts[begin:end]
        _infer_theta(topic_term, ids, weights, prior, iterations - 1, -1.0, theta, scratch)
        value = _contribute(topic_term, ids, weights, iterations == 1, theta, scale, sums, scratch)
        likelihood += np.int64(np.rint(value * _LIKELIHOOD_SCALE))
    return likelihood


@_compiled
def fold_in(
    indptr: Ints,
    term_ids: Ids,
    counts: Ids,
    first: int,
    last: int,
    topic_term: Floats,
    prior: float,
    max_iterations: int,
    tolerance: float,
    doc_topic: Floats,
) -> None:
    """Write theta of documents first..last into doc_topic (documents, num_topics) float64.

    A document stops by itself: its theta does not depend on the documents beside it. One without
    terms gets the prior's mean, 1 / num_topics.
    """
    scratch = _scratch(topic_term.shape[1])
    for document in range(first, last):
        begin, end = indptr[document], indptr[document + 1]
        theta = doc_topic[document]
        theta[:] = 1.0 / theta.size
        if begin < end:
            _infer_theta(
                topic_term,
                term_ids[begin:end],
                counts[begin:end],
                prior,
                max_iterations,
                tolerance,
                theta,
                scratch,
            )


@_compiled
def completion_likelihood(
    indptr: Ints,
    term_ids: Ids,
    counts: Ids,
    held_out: Bools,
    first: int,
    last: int,
    topic_term: Floats,
    prior: float,
    iterations: int,
) -> tuple[np.int64, np.int64]:
    """Document completion: theta from every second term, the likelihood of the other terms.

    Returns:
        Over the documents first..last where `held_out`: the log-likelihood in units of
        2^-LIKELIHOOD_BITS nats, and the number of tokens it is of.
    """
    num_topics = topic_term.shape[1]
    scratch = _scratch(num_topics)
    theta = np.empty(num_topics)
    likelihood, num_tokens = np.int64(0), np.int64(0)
    for document in range(first, last):
        begin, end = indptr[document], indptr[document + 1]
        if not held_out[document] or begin == end:
            continue
        ids, weights = term_ids[begin:end:2].copy(), counts[begin:end:2].copy()
        _infer_theta(topic_term, ids, weights, prior, iterations, -1.0, theta, scratch)
        value = 0.0
        for j in range(begin + 1, end, 2):
            row = topic_term[term_ids[j]]
            probability = 0.0
            for k in range(num_topics):
                probability += theta[k] * row[k]
            value += counts[j] * natural_log(probability)
            num_tokens += counts[j]
        likelihood += np.int64(np.rint(value * _LIKELIHOOD_SCALE))
    return likelihood, num_tokens


@_compiled
def keyword_scores(
    indptr: Ints,
    term_ids: Ids,
    doc_topic: Floats,
    topic_term: Floats,
    term_marginals: Floats,
    scores: Floats,
) -> None:
    """scores[i] = p(w|d) / p(w)^(3/4) for entry i, term w of document d.

    doc_topic: (documents, num_topics); topic_term: (num_terms, num_topics); term_marginals:
    (num_terms,), p(w); scores: (nnz,), written; all float64.
    """
    for document in range(indptr.size - 1):
        theta = doc_topic[document]
        for i in range(indptr[document], indptr[document + 1]):
            row = topic_term[term_ids[i]]
            probability = 0.0
            for k in range(theta.size):
                probability += theta[k] * row[k]
            root = math.sqrt(term_marginals[term_ids[i]])
            # Square roots are exact to the last bit everywhere; a power is not.
            scores[i] = probability / (root * math.sqrt(root))


@_compiled
def co_occurrences(
    indptr: Ints,
    term_ids: Ids,
    places_indptr: Ints,
    places_topic: Ids,
    places_rank: Ids,
    counts: Ints,
) -> None:
    """counts[k, i, j] += documents that contain both term i and term j of topic k.

    Args:
        indptr: (documents + 1,) int64.
        term_ids: (nnz,) int32, no term twice within a document.
        places_indptr: (num_terms + 1,) int64, where the places of a term begin and end.
        places_topic: topic of each place, int32.
        places_rank: rank of the term in that topic, int32.
        counts: (num_topics, ranks, ranks) int64, added to.
    """
    num_topics, num_ranks = counts.shape[0], counts.shape[1]
    found = np.zeros((num_topics, num_ranks), np.bool_)
    touched = np.zeros(num_topics, np.bool_)
    topics = np.empty(num_topics, np.int64)
    for document in range(indptr.size - 1):
        num_touched = 0
        for t in range(indptr[document], indptr[document + 1]):
            for place in range(places_indptr[term_ids[t]], places_indptr[term_ids[t] + 1]):
                topic = places_topic[place]
                found[topic, places_rank[place]] = True
                if not touched[topic]:
                    touched[topic] = True
                    topics[num_touched] = topic
                    num_touched += 1
        for topic in topics[:num_touched]:
            for i in range(num_ranks):
                if found[topic, i]:
                    for j in range(num_ranks):
                        counts[topic, i, j] += found[topic, j]
            found[topic] = False
            touched[topic] = False
