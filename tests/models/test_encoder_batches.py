"""Batches: every window once, under the budget, little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models.encoder_batches import pad_batch, plan_batches


def test_batches_by_hand() -> None:
    lengths = np.array([5, 10, 5, 10, 9, 40])
    batches = [batch.tolist() for batch in plan_batches(lengths, 30)]
    assert batches == [[5], [1, 3, 4], [0, 2]]


def test_padding_limit_cuts_a_batch_that_the_budget_allows() -> None:
    lengths = np.array([100, 50])
    assert len(plan_batches(lengths, 1000)) == 2
    assert len(plan_batches(lengths, 1000, max_padding=1.5)) == 1


def test_no_window_no_batch() -> None:
    assert plan_batches(np.array([], dtype=np.int64), 100) == []


@given(
    st.lists(st.integers(min_value=2, max_value=512), min_size=1, max_size=200),
    st.integers(min_value=16, max_value=4096),
)
def test_laws(lengths: list[int], budget: int) -> None:
    counts = np.array(lengths)
    batches = plan_batches(counts, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        padded = counts[batch].max() * len(batch)
        assert len(batch) == 1 or padded <= budget
        assert padded <= 1.10 * counts[batch].sum()


@given(st.lists(st.integers(min_value=2, max_value=64), min_size=1, max_size=60), st.randoms())
def test_batch_shapes_do_not_depend_on_order(lengths: list[int], random: object) -> None:
    counts = np.array(lengths)
    shuffled = counts.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first = [counts[batch].tolist() for batch in plan_batches(counts, 256)]
    assert first == [shuffled[batch].tolist() for batch in plan_batches(shuffled, 256)]


def test_pad_batch_by_hand() -> None:
    windows = [np.array([7, 8, 9], dtype=np.int32), np.array([5], dtype=np.int32)]
    ids, mask = pad_batch(windows, pad_id=1)
    assert ids.tolist() == [[7, 8, 9], [5, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.dtype(np.int64)


def test_pad_batch_needs_a_window() -> None:
    with pytest.raises(ValueError, match="max"):
        pad_batch([], pad_id=0)
