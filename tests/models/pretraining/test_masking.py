"""Masks: how many, of what, and in whole words."""

from __future__ import annotations

import numpy as np
import pytest

from lexbeam.models.pretraining.masking import mask_tokens
from lexbeam.models.training.random import generator
from tests.models.pretraining.helpers import SPECIAL, VOCAB_SIZE


def tokens(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ids = random.integers(5, VOCAB_SIZE, num).astype(np.int32)
    ids[::50], ids[49::50] = 2, 3
    starts = random.integers(0, 2, num).astype(np.uint8)
    starts[::50] = starts[1::50] = starts[49::50] = 1
    return ids, starts


@pytest.mark.parametrize("whole_words", [False, True])
def test_the_shares_are_bert_s(whole_words):
    ids, starts = tokens(60_000)
    masked = mask_tokens(ids, starts, SPECIAL, 0.15, generator(0), whole_words=whole_words)
    plain = ~SPECIAL.is_special(ids)
    assert len(masked.places) / plain.sum() == pytest.approx(0.15, abs=0.01)
    assert (masked.labels == ids[masked.places]).all()
    seen = masked.ids[masked.places]
    kept = (seen == masked.labels).mean()
    assert (seen == SPECIAL.mask).mean() == pytest.approx(0.8, abs=0.02)
    # Another token is by chance the same one.
    assert kept == pytest.approx(0.1 + 0.1 / (VOCAB_SIZE - 5), abs=0.02)
    elsewhere = np.ones(len(ids), np.bool_)
    elsewhere[masked.places] = False
    assert (masked.ids[elsewhere] == ids[elsewhere]).all()


@pytest.mark.parametrize("whole_words", [False, True])
def test_special_tokens_are_neither_chosen_nor_put_in(whole_words):
    ids, starts = tokens(20_000)
    masked = mask_tokens(ids, starts, SPECIAL, 0.5, generator(0), whole_words=whole_words)
    assert not SPECIAL.is_special(ids[masked.places]).any()
    put_in = masked.ids[masked.places]
    assert not np.isin(put_in, [0, 1, 2, 3]).any()


def test_words_are_masked_whole():
    ids, starts = tokens(5_000)
    masked = mask_tokens(ids, starts, SPECIAL, 0.15, generator(0), whole_words=True)
    words = np.cumsum(starts)
    chosen = np.isin(words, words[masked.places]) & ~SPECIAL.is_special(ids)
    assert np.flatnonzero(chosen).tolist() == masked.places.tolist()
    single = mask_tokens(ids, starts, SPECIAL, 0.15, generator(0), whole_words=False)
    in_words = np.isin(words, words[single.places]) & ~SPECIAL.is_special(ids)
    assert in_words.sum() > len(single.places)


@pytest.mark.parametrize("whole_words", [False, True])
def test_there_is_always_something_to_foretell(whole_words):
    ids = np.array([2, 7, 9, 3], np.int32)
    starts = np.array([1, 1, 0, 1], np.uint8)
    for seed in range(20):
        masked = mask_tokens(ids, starts, SPECIAL, 1e-9, generator(seed), whole_words=whole_words)
        assert masked.places.tolist() in ([[1, 2]] if whole_words else [[1], [2]])
    nothing = mask_tokens(
        ids[[0, 3]], starts[[0, 3]], SPECIAL, 0.5, generator(0), whole_words=whole_words
    )
    assert len(nothing.places) == 0


def test_masks_follow_from_their_place_alone_and_differ_elsewhere():
    ids, starts = tokens(500)

    def places(*counters: int) -> list[int]:
        random = generator(0, *counters)
        return mask_tokens(ids, starts, SPECIAL, 0.15, random, whole_words=False).places.tolist()

    assert places(3, 1) == places(3, 1)
    assert places(3, 1) != places(3, 2)


def test_a_part_of_a_batch_has_its_part_of_the_masks():
    ids, starts = tokens(100)
    masked = mask_tokens(ids, starts, SPECIAL, 0.3, generator(0), whole_words=False)
    parts = [masked.between(0, 40), masked.between(40, 100)]
    assert np.concatenate([part.ids for part in parts]).tolist() == masked.ids.tolist()
    assert np.concatenate([part.labels for part in parts]).tolist() == masked.labels.tolist()
    places = [*parts[0].places.tolist(), *(parts[1].places + 40).tolist()]
    assert places == masked.places.tolist()
