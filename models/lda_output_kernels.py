"""Compiled loops over a fitted LDA: keywords of documents, coherence of topics.

Imported where something is computed, not before: numba is heavy.
"""

from __future__ import annotations

import math

import numpy as np

from lexbeam.models.compiled import FloatArray, Int32Array, Int64Array, entry


@entry
def keyword_scores(
    indptr: Int64Array,
    term_ids: Int32Array,
    doc_topic: FloatArray,
    topic_term: FloatArray,
    term_marginals: FloatArray,
    scores: FloatArray,
) -> None:
    """scores[i] = p(w|d) / p(w)^(3/4) for entry i, term w of document d.

    doc_topic: (documents, num_topics); topic_term: (num_terms, >= num_topics); term_marginals:
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


@entry
def co_occurrences(
    indptr: Int64Array,
    term_ids: Int32Array,
    places_indptr: Int64Array,
    places_topic: Int32Array,
    places_rank: Int32Array,
    counts: Int64Array,
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
