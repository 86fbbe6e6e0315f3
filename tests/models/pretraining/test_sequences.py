"""Sequences: no token is lost, words are whole, and who is held out never changes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lexbeam.models.pretraining.sequences import (
    HELD_OUT,
    LEARNED,
    WITHOUT_TOKENS,
    Document,
    SequenceMaker,
    cut,
    text_key,
    word_starts,
)
from lexbeam.models.pretraining.subwords import special_tokens, train_tokenizer
from tests.models.tiny_models import CHINESE, ENGLISH

TOKENIZER = train_tokenizer(lambda: [CHINESE, ENGLISH], "wordpiece", 150)
SPECIAL = special_tokens(TOKENIZER)


def document(content: str, language: str = "en", words=()) -> Document:
    ends = np.cumsum([len(word) for word in words]).astype(np.int32)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32) if len(words) else ends
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Document(content, digest, language, starts, ends)


def maker(**options) -> SequenceMaker:
    values = {"max_seq_length": 16, "num_shards": 3, "eval_fraction": 0.2, "seed": 0} | options
    return SequenceMaker(TOKENIZER, SPECIAL, **values)


@given(st.lists(st.booleans(), min_size=0, max_size=80), st.integers(min_value=1, max_value=20))
def test_ranges_are_end_to_end_and_fit(starts, capacity):
    marks = np.array([True, *starts[1:]] if starts else [], np.uint8)
    ranges = cut(marks, capacity)
    assert [i for first, last in ranges for i in range(first, last)] == list(range(len(marks)))
    assert all(0 < last - first <= capacity for first, last in ranges)


def test_a_range_ends_before_a_word_where_one_begins_in_its_last_eighth():
    starts = np.zeros(40, np.uint8)
    starts[[0, 15]] = 1
    assert cut(starts, 16) == [(0, 15), (15, 31), (31, 40)]


def test_no_room_is_an_error():
    with pytest.raises(ValueError, match="at least one token, not 0"):
        cut(np.ones(3, np.uint8), 0)


def test_chinese_words_are_the_segmenter_s():
    words = ["河水", "流过", "旧", "磨坊", "。"]
    found = document("".join(words), "zh", words)
    encoding = TOKENIZER.encode(found.content, add_special_tokens=False)
    assert word_starts(found, encoding).tolist() == [1, 0, 1, 0, 1, 1, 0, 1]


def test_english_words_are_the_tokenizer_s():
    found = document("cold boats, river")
    encoding = TOKENIZER.encode(found.content, add_special_tokens=False)
    starts = word_starts(found, encoding)
    begins = [i for i, token in enumerate(encoding.tokens) if not token.startswith("##")]
    assert np.flatnonzero(starts).tolist() == begins
    assert [encoding.tokens[i][0] for i in begins] == ["c", "b", ",", "r"]


def test_every_token_of_every_text_is_in_its_sequences_between_special_tokens():
    documents = [document(ENGLISH), document(CHINESE), document("a")]
    rows = maker(eval_fraction=1e-9).sequences(documents)[0].to_pylist()
    inner = [token for row in rows for token in row["input_ids"][1:-1]]
    expected = [
        token
        for each in documents
        for token in TOKENIZER.encode(each.content, add_special_tokens=False).ids
    ]
    assert inner == expected
    for row in rows:
        assert (row["input_ids"][0], row["input_ids"][-1]) == (*SPECIAL.opening, *SPECIAL.closing)
        assert len(row["input_ids"]) == len(row["word_starts"]) <= 16
        # What is left of a word that was cut begins one, and so do special tokens.
        assert row["word_starts"][0] == row["word_starts"][1] == row["word_starts"][-1] == 1


def test_sequences_do_not_depend_on_what_else_is_in_the_block():
    documents = [document(f"{ENGLISH} {number}") for number in range(6)]
    together = maker().sequences(documents)[0].to_pylist()
    alone = [row for each in documents for row in maker().sequences([each])[0].to_pylist()]
    assert together == alone
    assert maker().sequences([])[0].num_rows == 0


def test_all_sequences_of_a_text_are_held_out_or_none():
    documents = [document(f"{ENGLISH} {number}") for number in range(200)]
    each = [{row["shard"] for row in maker().sequences([d])[0].to_pylist()} for d in documents]
    held_out = [shards for shards in each if 3 in shards]
    assert all(shards == {3} for shards in held_out)
    assert 20 < len(held_out) < 60
    assert set().union(*each) == {0, 1, 2, 3}


def test_keys_follow_from_seed_text_and_number():
    keys = {text_key(seed, text, number) for seed in (0, 1) for text in "ab" for number in (0, 1)}
    assert len(keys) == 8
    assert all(0 <= key < 2**64 for key in keys)


def test_what_becomes_of_documents_is_counted():
    documents = [document(f"{ENGLISH} {number}") for number in range(100)]
    nothing = document("\u200b\u200b")
    made, fates = maker().sequences([*documents, nothing])
    held_out = sum(maker().is_held_out(each.text_sha256) for each in documents)
    assert fates == {LEARNED: 100 - held_out, HELD_OUT: held_out, WITHOUT_TOKENS: 1}
    assert 0 < held_out < 100
    assert made.num_rows > 100
