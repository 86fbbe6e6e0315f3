"""Steps of a training: each example once an epoch, and batches that fit the memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models.training.batches import BatchPlan, cut_by_tokens


@given(
    st.lists(st.integers(min_value=1, max_value=30), min_size=1, max_size=200),
    st.integers(min_value=30, max_value=200),
)
def test_an_epoch_takes_every_sequence_once_in_steps_that_are_never_empty(lengths, batch_tokens):
    array = np.array(lengths, np.int64)
    if array.sum() < batch_tokens:
        with pytest.raises(ValueError, match="steps of"):
            BatchPlan(array, batch_tokens, 0)
        return
    plan = BatchPlan(array, batch_tokens, 0)
    for epoch in range(2):
        steps = [
            plan.examples(epoch * plan.steps_per_epoch + step + 1)
            for step in range(plan.steps_per_epoch)
        ]
        assert sorted(np.concatenate(steps).tolist()) == list(range(len(lengths)))
        assert all(len(step) for step in steps)
        assert max(array[step].sum() for step in steps) < 2 * batch_tokens + 30


def test_orders_differ_by_epoch_and_seed_and_steps_can_be_asked_for_in_any_order():
    lengths = np.full(100, 10, np.int64)
    plan = BatchPlan(lengths, 100, 0)
    first, eleventh = plan.examples(1).tolist(), plan.examples(11).tolist()
    assert first != eleventh
    assert plan.examples(1).tolist() == first
    assert BatchPlan(lengths, 100, 1).examples(1).tolist() != first


@given(
    st.lists(st.integers(min_value=1, max_value=30), max_size=100),
    st.integers(min_value=1, max_value=60),
)
def test_groups_are_consecutive_and_as_large_as_they_may_be(lengths, most):
    bounds = cut_by_tokens(np.array(lengths, np.int64), most)
    sizes = [sum(lengths[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
    assert sum(sizes) == sum(lengths)
    for (first, last), size in zip(zip(bounds, bounds[1:], strict=False), sizes, strict=True):
        assert last > first
        assert size <= most or last - first == 1
        assert last == len(lengths) or size + lengths[last] > most
