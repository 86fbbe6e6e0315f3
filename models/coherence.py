"""Quality of topics: coherence by NPMI over documents, and diversity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models import lda_output_kernels
from lexbeam.models.lda_bow import Bow, BowSource, Int32Array, Int64Array, iterate

Float64Array = npt.NDArray[np.float64]

COHERENCE_TERMS = 10
DIVERSITY_TERMS = 25


class TopicCoOccurrence:
    """In how many documents the top terms of a topic stand, singly and in pairs.

    Blocks may be added, and accumulators merged, in any split and order.

    Attributes:
        top_term_ids: (num_topics, n) int32, no term twice within a topic.
        num_terms: V.
        counts: (num_topics, n, n) int64: documents with term i, on the diagonal, or i and j.
        num_documents: documents with at least one term.
    """

    def __init__(self, top_term_ids: Int32Array, num_terms: int) -> None:
        self.top_term_ids = top_term_ids
        self.num_terms = num_terms
        num_topics, num_ranks = top_term_ids.shape
        self.counts: Int64Array = np.zeros((num_topics, num_ranks, num_ranks), np.int64)
        self.num_documents = 0

    def add(self, bow: Bow | pa.RecordBatch) -> None:
        """Count a block; raises ValueError if a term id is not in [0, V)."""
        block = bow if isinstance(bow, Bow) else Bow.from_batch(bow)
        block.check_terms(self.num_terms)
        flat = self.top_term_ids.ravel()
        order = np.argsort(flat, kind="stable").astype(np.int32)
        num_ranks = self.top_term_ids.shape[1]
        lda_output_kernels.co_occurrences(
            block.indptr,
            block.term_ids,
            np.searchsorted(flat[order], np.arange(self.num_terms + 1)).astype(np.int64),
            order // np.int32(num_ranks),
            order % np.int32(num_ranks),
            self.counts,
        )
        self.num_documents += block.num_documents

    def merge(self, other: TopicCoOccurrence) -> None:
        """Add the counts of other documents; raises ValueError if the topics differ."""
        if not np.array_equal(self.top_term_ids, other.top_term_ids):
            raise ValueError("cannot merge the co-occurrences of other topics")
        self.counts += other.counts
        self.num_documents += other.num_documents

    def npmi(self) -> Float64Array:
        """Mean NPMI of the pairs of each topic, (num_topics,) float64 in [-1, 1].

        npmi(i, j) = log(p_ij / (p_i p_j)) / -log p_ij, p over documents (Bouma 2009; Röder et al.
        2015): -1 for two terms that never meet, 1 for two that stand in every document. A topic
        of a single term has no pair: 0.
        """
        num_topics, num_ranks, _ = self.counts.shape
        first, second = np.triu_indices(num_ranks, k=1)
        if not len(first) or not self.num_documents:
            return np.zeros(num_topics)
        single = np.diagonal(self.counts, axis1=1, axis2=2) / self.num_documents
        pair = self.counts[:, first, second] / self.num_documents
        values = np.where(pair > 0, 1.0, -1.0)
        rest = (pair > 0) & (pair < 1)
        independent = (single[:, first] * single[:, second])[rest]
        values[rest] = np.log(pair[rest] / independent) / -np.log(pair[rest])
        return np.asarray(values.mean(axis=1), dtype=np.float64)


def npmi(source: BowSource, top_term_ids: Int32Array, num_terms: int) -> Float64Array:
    """NPMI coherence of each topic over a reference corpus.

    Args:
        source: the corpus, often the one the topics were fitted on.
        top_term_ids: (num_topics, n) int32; the first COHERENCE_TERMS of each topic are taken.
        num_terms: V.

    Returns:
        (num_topics,) float64, see `TopicCoOccurrence.npmi`; the mean is the model's coherence.
    """
    co_occurrence = TopicCoOccurrence(top_term_ids[:, :COHERENCE_TERMS], num_terms)
    for block in iterate(source):
        co_occurrence.add(block)
    return co_occurrence.npmi()


def diversity(top_term_ids: Int32Array) -> float:
    """Share of distinct terms among the first DIVERSITY_TERMS of all topics, in (0, 1].

    top_term_ids: (num_topics, n) int32. Dieng, Ruiz and Blei 2020.
    """
    top = top_term_ids[:, :DIVERSITY_TERMS]
    return len(np.unique(top)) / top.size if top.size else 0.0
