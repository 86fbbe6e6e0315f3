"""Labels that are no task are found; splits keep classes and equal texts together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models.finetuning.examples import (
    ExamplesError,
    Windows,
    check_labels,
    random_split,
    stratified_split,
)
from tests.models.finetuning.helpers import labelled

TEXTS = [f"t{number}" for number in range(40)]
KINDS = ["x", "y", "y", "y"] * 10


class TestLabels:
    def test_classes_come_sorted(self):
        assert check_labels(["b", "a", "b", "a"], TEXTS[:4]) == ("a", "b")

    @pytest.mark.parametrize(
        ("labels", "texts", "message"),
        [
            ([], [], "two classes at least: no document is left"),
            (["x"] * 3, TEXTS[:3], "every document has the label 'x'"),
            (["1", "2", "3"], TEXTS[:3], "3 classes for 3 different texts, such as '1', '2', '3'"),
            (["1", "2", "1"], ["t", "u", "t"], "2 classes for 2 different texts"),
            (["x", "x", "x", "y"], TEXTS[:4], "1 of 2 classes have fewer than 2 .*: 'y'"),
            (["x", "x", "x", "y", "y"], [*TEXTS[:3], "u", "u"], "fewer than 2 different texts"),
        ],
    )
    def test_what_is_no_task_is_an_error(self, labels, texts, message):
        with pytest.raises(ExamplesError, match=message):
            check_labels(labels, texts)


class TestStratifiedSplit:
    def test_each_class_has_its_share(self):
        held_out = stratified_split(KINDS, TEXTS, 0.2, 0)
        chosen = Counter(kind for kind, out in zip(KINDS, held_out, strict=True) if out)
        assert chosen == {"x": 2, "y": 6}

    def test_it_follows_from_the_texts_and_the_seed_alone(self):
        first = stratified_split(KINDS, TEXTS, 0.2, 0)
        order = np.random.default_rng(0).permutation(len(TEXTS))
        again = stratified_split([KINDS[i] for i in order], [TEXTS[i] for i in order], 0.2, 0)
        assert (first[order] == again).all()
        assert (stratified_split(KINDS, TEXTS, 0.2, 1) != first).any()

    def test_equal_texts_stand_on_one_side(self):
        texts = [f"t{number // 4}" for number in range(40)]
        labels = [f"k{number // 20}" for number in range(40)]
        held_out = stratified_split(labels, texts, 0.3, 0)
        for text in set(texts):
            assert (
                len({bool(out) for t, out in zip(texts, held_out, strict=True) if t == text}) == 1
            )

    def test_a_small_share_still_holds_out_a_text_of_each_class(self):
        held_out = stratified_split(KINDS, TEXTS, 0.001, 0)
        assert {kind for kind, out in zip(KINDS, held_out, strict=True) if out} == {"x", "y"}

    def test_a_large_share_still_leaves_one_to_learn_from(self):
        held_out = stratified_split(KINDS, TEXTS, 0.999, 0)
        assert {kind for kind, out in zip(KINDS, held_out, strict=True) if not out} == {"x", "y"}


@given(st.integers(10, 60), st.floats(0.1, 0.9), st.integers(0, 99))
def test_pairs_are_held_out_by_their_keys_and_equal_texts_together(number, fraction, seed):
    keys = np.random.default_rng(seed).permutation(number)
    texts = [f"t{key // 2}" for key in keys.tolist()]
    wanted = round(fraction * len(set(texts)))
    if min(wanted, len(set(texts)) - wanted) < 2:
        with pytest.raises(ExamplesError, match="two at least"):
            random_split(keys, texts, fraction)
        return
    held_out = random_split(keys, texts, fraction)
    chosen = {text for text, out in zip(texts, held_out, strict=True) if out}
    assert len(chosen) == wanted
    assert not chosen & {text for text, out in zip(texts, held_out, strict=True) if not out}


def test_windows_are_read_by_document_and_number():
    table = labelled(6, windows=3)
    windows = Windows(table)
    assert windows.counts.tolist() == [3] * 6
    for row, document in enumerate(table.to_pylist()):
        own = [windows.window(row, number).tolist() for number in range(3)]
        assert [len(each) for each in own] == document["window_lengths"]
        assert sum(own, []) == document["input_ids"]
        assert windows.mean_lengths[row] == np.mean(document["window_lengths"])
