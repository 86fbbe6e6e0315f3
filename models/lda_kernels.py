"""Compiled inner loops of LDA: E-step, fold-in, held-out likelihood.

Imported where something is computed, not before: numba is heavy.

Bit for bit the same everywhere for MAP-EM: sums in an order that is laid down (see `lanes`), no
fast-math, no library logarithm. MAP-EM and variational Bayes are one loop, and differ in a single
step, from a document's expected counts to its weights of topics.

Matrices of topics have rows padded with zeros to a multiple of `LANES`, and are float32 or float64:
the inner iterations run in that type, what a document adds to the sums is float64.
"""

from __future__ import annotations

import math

import numpy as np

from lexbeam.models.compiled import (
    BoolArray,
    FloatArray,
    Int32Array,
    Int64Array,
    Integer,
    entry,
    helper,
)
from lexbeam.models.lanes import (
    LARGEST_ROUNDED,
    add_rounded,
    add_rows4,
    dot4,
    dot4_double,
    prefetch,
)

LIKELIHOOD_BITS = 20  # log-likelihoods are summed in units of 2^-20 nats
_LIKELIHOOD_SCALE = float(1 << LIKELIHOOD_BITS)
_LN2 = math.log(2.0)
_SQRT_HALF = math.sqrt(0.5)
_SMALL_COUNT = 4
_SMALL_PRODUCT = 1e-180  # times _SMALL_COUNT probabilities, it is still a normal number


@entry
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


@helper
def _digamma(x: float) -> float:
    """psi(x) for x > 0, by its recurrence and its asymptotic series (Abramowitz, Stegun 6.3.18)."""
    value = 0.0
    while x < 6.0:
        value -= 1.0 / x
        x += 1.0
    square = 1.0 / (x * x)
    series = 1.0 / 132.0
    for coefficient in (-1.0 / 240.0, 1.0 / 252.0, -1.0 / 120.0, 1.0 / 12.0):
        series = series * square + coefficient
    # The coefficients alternate: 1/12 - x^-2/120 + x^-4/252 - x^-6/240 + x^-8/132.
    return value + math.log(x) - 0.5 / x - square * series


@helper
def _expect(
    topic_term: FloatArray,
    term_ids: Int32Array,
    counts: Int32Array,
    theta: FloatArray,
    expected: FloatArray,
) -> None:
    """expected[k] = sum over terms j of counts[j] phi_jk / (sum over topics of theta phi_j)."""
    expected[:] = 0.0
    last = term_ids.size - 1
    for j in range(0, last + 1, 4):
        # Past the end the last term comes again, with a count of zero.
        j1, j2, j3 = min(j + 1, last), min(j + 2, last), min(j + 3, last)
        row, row1, row2, row3 = (
            topic_term[term_ids[j]],
            topic_term[term_ids[j1]],
            topic_term[term_ids[j2]],
            topic_term[term_ids[j3]],
        )
        mixed, mixed1, mixed2, mixed3 = dot4(theta, row, row1, row2, row3)
        add_rows4(
            expected,
            counts[j] / mixed,
            (j1 - j) * counts[j1] / mixed1,
            (j2 - j1) * counts[j2] / mixed2,
            (j3 - j2) * counts[j3] / mixed3,
            row,
            row1,
            row2,
            row3,
        )


@helper
def _infer(
    topic_term: FloatArray,
    term_ids: Int32Array,
    counts: Int32Array,
    prior: float,
    variational: bool,
    max_iterations: int,
    tolerance: float,
    theta: FloatArray,
    gamma: FloatArray,
    expected: FloatArray,
) -> float:
    """Weights of a document's topics, from uniform, phi fixed; returns the sum of gamma.

    gamma_k <- prior + theta_k expected_k. MAP-EM: theta = gamma / sum of gamma, until its L1 change
    is below `tolerance`. Variational Bayes: theta = exp(E[log theta]), until the mean change of
    gamma is below `tolerance`. A tolerance of zero or less is not looked at. theta and gamma:
    (num_topics,) padded to whole lanes; the padding of theta must be zero.
    """
    num_topics = gamma.size
    total = num_topics * prior
    for count in counts:
        total += count
    for k in range(num_topics):
        theta[k] = 1.0 / num_topics
        gamma[k] = 1.0 if variational else total / num_topics
    limit = tolerance * (num_topics if variational else total)
    for _ in range(max_iterations):
        _expect(topic_term, term_ids, counts, theta, expected)
        change = 0.0
        for k in range(num_topics):
            updated = prior + theta[k] * expected[k]
            if limit > 0.0:
                change += abs(updated - gamma[k])
            gamma[k] = updated
        if variational:
            log_total = _digamma(total)
            for k in range(num_topics):
                theta[k] = math.exp(_digamma(gamma[k]) - log_total)
        else:
            for k in range(num_topics):
                theta[k] = gamma[k] / total
        if change < limit:
            break
    return total


@helper
def _prefetch_rows(sums: Int64Array, term_ids: Int32Array, first: Integer) -> None:
    for j in range(first, min(first + 4, term_ids.size)):
        prefetch(sums[term_ids[j]])


@helper
def _contribute(
    topic_term: FloatArray,
    term_ids: Int32Array,
    counts: Int32Array,
    theta: FloatArray,
    scale: float,
    sums: Int64Array,
) -> float:
    """Add a document's count x responsibility, in units of 1/scale; return its log-likelihood."""
    likelihood, product = 0.0, 1.0
    last = term_ids.size - 1
    for j in range(0, last + 1, 4):
        _prefetch_rows(sums, term_ids, j + 4)
        mixed4 = dot4_double(
            theta,
            topic_term[term_ids[j]],
            topic_term[term_ids[min(j + 1, last)]],
            topic_term[term_ids[min(j + 2, last)]],
            topic_term[term_ids[min(j + 3, last)]],
        )
        for i in range(min(4, last + 1 - j)):
            count, mixed = counts[j + i], mixed4[i]
            row, total = topic_term[term_ids[j + i]], sums[term_ids[j + i]]
            ratio = count * scale / mixed
            if count * scale <= LARGEST_ROUNDED:
                add_rounded(total, ratio, row, theta)
            else:
                for k in range(row.size):
                    share = np.float64(row[k]) * np.float64(theta[k])
                    total[k] += np.int64(np.rint(ratio * share))
            # A product of probabilities takes one logarithm.
            if count > _SMALL_COUNT:
                likelihood += count * natural_log(mixed)
                continue
            for _ in range(count):
                product *= mixed
            if product < _SMALL_PRODUCT:
                likelihood += natural_log(product)
                product = 1.0
    return likelihood + natural_log(product)


@entry
def topic_probabilities(
    topic_term_counts: Int64Array,
    topic_totals: Int64Array,
    num_terms: int,
    prior: float,
    unit: float,
    rows: FloatArray,
) -> None:
    """M-step of MAP-EM: rows[w, k] = (prior + n_kw) / (num_terms prior + n_k).

    topic_term_counts: (any, num_topics) int64, in units of `unit` tokens; topic_totals:
    (num_topics,) int64; rows: (any, >= num_topics), written, the columns past num_topics are not.
    """
    num_topics = topic_totals.size
    totals = topic_totals * unit + num_terms * prior
    for term in range(rows.shape[0]):
        counts, row = topic_term_counts[term], rows[term]
        for k in range(num_topics):
            row[k] = (counts[k] * unit + prior) / totals[k]


@entry
def e_step(
    indptr: Int64Array,
    term_ids: Int32Array,
    counts: Int32Array,
    skip: BoolArray,
    first: int,
    last: int,
    topic_term: FloatArray,
    num_topics: int,
    prior: float,
    variational: bool,
    updates: int,
    tolerance: float,
    scale: float,
    sums: Int64Array,
) -> np.int64:
    """Add documents first..last of a CSR block to `sums`; those where `skip` are left out.

    A document's topics are inferred from uniform by at most `updates` steps; the responsibilities
    that follow from them are its contribution.

    Args:
        indptr: (documents + 1,) int64.
        term_ids: (nnz,) int32, ascending within a document.
        counts: (nnz,) int32, positive.
        skip: (documents,) bool.
        first: first document.
        last: document after the last one.
        topic_term: (num_terms, num_topics padded), p(term | topic), or exp(E[log p(term | topic)])
            where `variational`.
        num_topics: K.
        prior: doc_topic_prior (alpha).
        variational: whether by variational Bayes.
        updates: see above, >= 0.
        tolerance: see `_infer`.
        scale: units of fixed point in a token, a power of two.
        sums: (num_terms, num_topics padded) int64, added to.

    Returns:
        The log-likelihood of the documents' tokens, in units of 2^-LIKELIHOOD_BITS nats.
    """
    theta = np.zeros(topic_term.shape[1], topic_term.dtype)
    expected, gamma = np.empty_like(theta), np.empty(num_topics)
    likelihood = np.int64(0)
    for document in range(first, last):
        begin, end = indptr[document], indptr[document + 1]
        if skip[document] or begin == end:
            continue
        ids, weights = term_ids[begin:end], counts[begin:end]
        _infer(
            topic_term,
            ids,
            weights,
            prior,
            variational,
            updates,
            tolerance,
            theta,
            gamma,
            expected,
        )
        value = _contribute(topic_term, ids, weights, theta, scale, sums)
        likelihood += np.int64(np.rint(value * _LIKELIHOOD_SCALE))
    return likelihood


@entry
def fold_in(
    indptr: Int64Array,
    term_ids: Int32Array,
    counts: Int32Array,
    topic_term: FloatArray,
    prior: float,
    variational: bool,
    max_iterations: int,
    tolerance: float,
    doc_topic: FloatArray,
) -> None:
    """Write the topic proportions of documents into doc_topic (documents, num_topics) float64.

    A document stops by itself: its topics do not depend on the documents beside it. One without
    terms gets the prior's mean, 1 / num_topics.
    """
    num_topics = doc_topic.shape[1]
    theta = np.zeros(topic_term.shape[1], topic_term.dtype)
    expected, gamma = np.empty_like(theta), np.empty(num_topics)
    for document in range(indptr.size - 1):
        begin, end = indptr[document], indptr[document + 1]
        proportions = doc_topic[document]
        if begin == end:
            proportions[:] = 1.0 / num_topics
            continue
        total = _infer(
            topic_term,
            term_ids[begin:end],
            counts[begin:end],
            prior,
            variational,
            max_iterations,
            tolerance,
            theta,
            gamma,
            expected,
        )
        for k in range(num_topics):
            proportions[k] = gamma[k] / total


@entry
def completion_likelihood(
    indptr: Int64Array,
    term_ids: Int32Array,
    counts: Int32Array,
    held_out: BoolArray,
    first: int,
    last: int,
    topic_term: FloatArray,
    num_topics: int,
    prior: float,
    iterations: int,
) -> tuple[np.int64, np.int64]:
    """Document completion: theta from every second term, the likelihood of the other terms.

    topic_term: (num_terms, num_topics padded), p(term | topic); theta is MAP-EM's.

    Returns:
        Over the documents first..last where `held_out`: the log-likelihood in units of
        2^-LIKELIHOOD_BITS nats, and the number of tokens it is of.
    """
    theta = np.zeros(topic_term.shape[1], topic_term.dtype)
    expected, gamma = np.empty_like(theta), np.empty(num_topics)
    likelihood, num_tokens = np.int64(0), np.int64(0)
    for document in range(first, last):
        begin, end = indptr[document], indptr[document + 1]
        if not held_out[document] or begin == end:
            continue
        ids, weights = term_ids[begin:end:2].copy(), counts[begin:end:2].copy()
        _infer(topic_term, ids, weights, prior, False, iterations, -1.0, theta, gamma, expected)
        value = 0.0
        for j in range(begin + 1, end, 2):
            row = topic_term[term_ids[j]]
            probability = 0.0
            for k in range(num_topics):
                probability += theta[k] * np.float64(row[k])
            value += counts[j] * natural_log(probability)
            num_tokens += counts[j]
        likelihood += np.int64(np.rint(value * _LIKELIHOOD_SCALE))
    return likelihood, num_tokens
