"""NPMI coherence and diversity of topics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lexbeam.models import coherence
from lexbeam.models.lda_bow import Bow

# Documents' terms; the last document is empty and does not count.
DOCUMENTS = [[0, 1, 2], [0, 1], [0, 1, 3], [0, 3], []]


def to_bow(documents: list[list[int]]) -> Bow:
    lengths = [len(document) for document in documents]
    ids = np.array([term for document in documents for term in document], np.int32)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Bow(indptr, ids, np.ones(len(ids), np.int32))


def test_npmi_by_hand() -> None:
    top = np.array([[0, 1, 2], [3, 2, 0]], np.int32)
    # p: 0 always, 1 in 3/4, 2 in 1/4, 3 in 1/2 of the documents.
    with_1 = 0.0  # log((3/4) / (1 * 3/4))
    pair_1_2 = math.log(0.25 / (0.75 * 0.25)) / -math.log(0.25)
    expected = [(with_1 + 0.0 + pair_1_2) / 3, (-1.0 + 0.0 + 0.0) / 3]
    np.testing.assert_allclose(coherence.npmi(to_bow(DOCUMENTS), top, 4), expected, atol=1e-12)


def test_terms_that_stand_in_every_document() -> None:
    assert coherence.npmi(to_bow([[0, 1], [0, 1]]), np.array([[0, 1]], np.int32), 2) == [1.0]


def test_topic_of_one_term_has_no_pair() -> None:
    assert coherence.npmi(to_bow(DOCUMENTS), np.array([[1]], np.int32), 4) == [0.0]


def test_only_the_first_ten_terms_count() -> None:
    top = np.arange(12, dtype=np.int32)[None, :]
    documents = [list(range(10)), [10, 11]]
    assert coherence.npmi(to_bow(documents), top, 12)[0] == pytest.approx(1.0)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), unique=True).map(sorted), min_size=1, max_size=12),
    st.integers(0, 12),
)
def test_counts_equal_sets_and_merge(documents: list[list[int]], cut: int) -> None:
    top = np.array([[0, 2, 4], [4, 5, 1]], np.int32)
    parts = []
    for chosen in (documents[cut:], documents[:cut]):
        part = coherence.TopicCoOccurrence(top, 6)
        part.add(to_bow(chosen))
        parts.append(part)
    parts[0].merge(parts[1])
    for topic, terms in enumerate(top.tolist()):
        for i, first in enumerate(terms):
            for j, second in enumerate(terms):
                expected = sum({first, second} <= set(document) for document in documents)
                assert parts[0].counts[topic, i, j] == expected
    assert parts[0].num_documents == sum(map(bool, documents))


def test_merge_and_add_check_their_input() -> None:
    first = coherence.TopicCoOccurrence(np.array([[0, 1]], np.int32), 4)
    with pytest.raises(ValueError, match="other topics"):
        first.merge(coherence.TopicCoOccurrence(np.array([[0, 2]], np.int32), 4))
    with pytest.raises(ValueError, match="outside"):
        first.add(to_bow([[4]]))


def test_diversity_by_hand() -> None:
    assert coherence.diversity(np.array([[0, 1], [1, 2]], np.int32)) == 0.75
    assert coherence.diversity(np.array([[0, 1], [3, 2]], np.int32)) == 1.0
    same = np.tile(np.arange(30, dtype=np.int32), (2, 1))
    assert coherence.diversity(same) == 0.5
