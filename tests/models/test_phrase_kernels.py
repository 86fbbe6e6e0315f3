"""Loops over runs of tokens: equal runs, keys within documents, best scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models import phrase_kernels

FLOATS = st.floats(-3, 3, width=32).map(lambda value: round(value, 1))
DOCUMENTS = st.lists(st.lists(st.tuples(FLOATS, st.booleans()), max_size=12), max_size=5)


@given(DOCUMENTS, st.integers(1, 5))
def test_best_places_are_the_best_and_their_ties(
    documents: list[list[tuple[float, bool]]], quota: int
) -> None:
    offsets = np.cumsum([0, *map(len, documents)])
    entries = [entry for document in documents for entry in document]
    scores = np.array([score for score, _ in entries], np.float32)
    allowed = np.array([is_allowed for _, is_allowed in entries], np.bool_)
    quotas = np.full(len(documents), quota)
    found = phrase_kernels.best_places(offsets, scores, allowed, quotas)
    expected = []
    for first, last in zip(offsets, offsets[1:], strict=False):
        places = [place for place in range(first, last) if allowed[place]]
        best = sorted((scores[place] for place in places), reverse=True)[:quota]
        expected += [place for place in places if scores[place] >= best[-1]]
    assert found.tolist() == expected


def test_best_places_of_many_scores() -> None:
    scores = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    for values in (scores, np.sort(scores), -np.sort(scores), np.zeros_like(scores)):
        found = phrase_kernels.best_places(
            np.array([0, len(values)]), values, np.ones(len(values), np.bool_), np.array([25])
        )
        assert found.tolist() == np.flatnonzero(values >= np.sort(values)[-25]).tolist()


RUNS = st.lists(st.tuples(st.integers(0, 15), st.integers(1, 4)), max_size=30)
TOKENS = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=20, max_size=20)


@given(RUNS, TOKENS)
def test_equal_runs_have_one_number(
    runs: list[tuple[int, int]], tokens: list[tuple[int, bool]]
) -> None:
    codes = np.array([code for code, _ in tokens], np.int32)
    gaps = np.array([gap for _, gap in tokens], np.bool_)
    firsts = np.array([first for first, _ in runs], np.int64)
    lengths = np.array([length for _, length in runs], np.int64)
    numbers, leads = phrase_kernels.number_runs(firsts, lengths, codes, gaps)
    # The gap before a run is no part of it.
    keys = [(tokens[first][0], *tokens[first + 1 : first + length]) for first, length in runs]
    distinct = list(dict.fromkeys(keys))
    assert numbers.tolist() == [distinct.index(key) for key in keys]
    assert leads.tolist() == [keys.index(key) for key in distinct]


@given(st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=5))
def test_keys_are_numbered_within_their_document(documents: list[list[int]]) -> None:
    pairs = [(index, key) for index, keys in enumerate(documents) for key in keys]
    arrays = np.array(pairs, np.int64).reshape(-1, 2)
    numbers, leads = phrase_kernels.number_by_document(arrays[:, 0].copy(), arrays[:, 1].copy(), 5)
    distinct = list(dict.fromkeys(pairs))
    assert numbers.tolist() == [distinct.index(pair) for pair in pairs]
    assert leads.tolist() == [pairs.index(pair) for pair in distinct]
