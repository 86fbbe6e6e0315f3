"""Published results of a fitted LDA: topics of documents, their keywords, terms of topics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models import lda_output_kernels, schemas
from lexbeam.models.counts import make_lists, row_offsets
from lexbeam.models.lda_bow import Bow, Int32Array
from lexbeam.models.lda_model import LdaModel
from lexbeam.models.lda_statistics import Float64Array

MIN_TOPIC_WEIGHT = 0.01
MAX_DOCUMENT_TOPICS = 10
TERMS_PER_TOPIC = 30


def document_topics(bow: pa.RecordBatch, theta: Float64Array) -> pa.ListArray:
    """The heaviest topics of each document.

    Args:
        bow: n rows of `schemas.BOW`.
        theta: (n, num_topics) float64, from `fold_in`.

    Returns:
        `schemas.TOPIC_WEIGHTS`, weights of at least 0.01, at most 10, heaviest first, equal ones
        by topic; null for null rows, empty for documents without terms.
    """
    weights = theta.astype(np.float32)
    weights[Bow.from_batch(bow).is_empty] = 0.0
    order = np.argsort(-weights, axis=1, kind="stable")[:, :MAX_DOCUMENT_TOPICS]
    heaviest = np.take_along_axis(weights, order, axis=1)
    kept = heaviest >= np.float32(MIN_TOPIC_WEIGHT)
    pairs = pa.StructArray.from_arrays(
        [pa.array(order[kept].astype(np.int32)), pa.array(heaviest[kept])],
        fields=list(schemas.TOPIC_WEIGHTS.value_type),
    )
    offsets = row_offsets(kept.sum(axis=1, dtype=np.int64))
    return make_lists(offsets, pairs, bow.column("term_ids")).cast(schemas.TOPIC_WEIGHTS)


def keywords_lda(
    bow: pa.RecordBatch, theta: Float64Array, model: LdaModel, terms: pa.Array, top_k: int
) -> pa.ListArray:
    """Terms of each document that its topics make likely, more than the corpus does.

    score(w, d) = p(w|d) / p(w)^(3/4), where p(w|d) = sum over topics of theta_dk phi_kw, and
    p(w) is the same under the corpus' topic proportions. Its logarithm is the relevance of
    Sievert and Shirley 2014 with lambda = 1/4, for a document in place of a topic; of the values
    0 to 1, those about 1/4 find most words of authors' keyphrases in English and in Chinese.

    Args:
        bow: n rows of `schemas.BOW`.
        theta: (n, num_topics) float64, from `fold_in`.
        model: the fitted model.
        terms: (num_terms,) string, the vocabulary.
        top_k: keywords a document, at most.

    Returns:
        `schemas.KEYWORDS`, best first, equal scores (float32) in term order; null for null rows,
        empty for documents without terms.

    Raises:
        ValueError: `top_k` is below 1, or a term id is not in the model.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    block = Bow.from_batch(bow)
    block.check_terms(model.num_terms)
    raw = np.empty(len(block.term_ids))
    lda_output_kernels.keyword_scores(
        block.indptr, block.term_ids, theta, model.padded_topic_term, model.term_marginals, raw
    )
    scores = raw.astype(np.float32)
    lengths = np.diff(block.indptr)
    document = np.repeat(np.arange(len(block)), lengths)
    order = np.lexsort((block.term_ids, -scores, document))
    # Entries are in order of documents: the place of one within its own decides if it is kept.
    chosen = order[np.arange(len(order)) - np.repeat(block.indptr[:-1], lengths) < top_k]
    pairs = pa.StructArray.from_arrays(
        [terms.take(pa.array(block.term_ids[chosen])), pa.array(scores[chosen])],
        fields=list(schemas.KEYWORDS.value_type),
    )
    offsets = row_offsets(np.minimum(lengths, top_k))
    return make_lists(offsets, pairs, bow.column("term_ids")).cast(schemas.KEYWORDS)


def top_term_ids(model: LdaModel, num_terms: int = TERMS_PER_TOPIC) -> Int32Array:
    """(num_topics, min(num_terms, V)) int32: likeliest terms of each topic, ties in term order."""
    num_kept = min(num_terms, model.num_terms)
    top = np.empty((model.num_topics, num_kept), np.int32)
    for topic in range(model.num_topics):
        falling = -np.ascontiguousarray(model.topic_term_counts[:, topic])
        limit = np.partition(falling, num_kept - 1)[num_kept - 1]
        candidates = np.flatnonzero(falling <= limit)
        order = np.argsort(falling[candidates], kind="stable")[:num_kept]
        top[topic] = candidates[order]
    return top


def top_terms(model: LdaModel, terms: pa.Array, num_terms: int = TERMS_PER_TOPIC) -> pa.Table:
    """Likeliest terms of each topic.

    Args:
        model: the fitted model.
        terms: (V,) string, the vocabulary.
        num_terms: terms a topic, at most.

    Returns:
        `schemas.TOPICS`, by topic and rank; ranks begin with 1; weight is p(term | topic).
    """
    ids = top_term_ids(model, num_terms)
    num_topics, num_ranks = ids.shape
    topics: npt.NDArray[np.int32] = np.repeat(np.arange(num_topics, dtype=np.int32), num_ranks)
    columns = [
        pa.array(topics),
        pa.array(np.tile(np.arange(1, num_ranks + 1, dtype=np.int32), num_topics)),
        pa.array(terms.take(pa.array(ids.ravel()))),
        pa.array(model.topic_term[ids.ravel(), topics]),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.TOPICS)
