"""Vocabularies, and special tokens."""

from __future__ import annotations

from itertools import permutations

import pytest
import transformers

from lexbeam.models.config import ConfigError
from lexbeam.models.encoder_windows import load_tokenizer
from lexbeam.models.pretraining import subwords
from tests.models.tiny_models import CHINESE, ENGLISH

TEXTS = [CHINESE, ENGLISH] * 3


@pytest.mark.parametrize("vocabulary", ["wordpiece", "unigram"])
def test_a_vocabulary_spells_the_texts_that_it_was_trained_on(vocabulary, tmp_path):
    tokenizer = subwords.train_tokenizer(lambda: TEXTS, vocabulary, 200)
    assert tokenizer.get_vocab_size() <= 200
    unknown = tokenizer.token_to_id("[UNK]")
    for text in TEXTS:
        assert unknown not in tokenizer.encode(text).ids
    assert tokenizer.encode("Boats").ids == tokenizer.encode("boats").ids

    special = subwords.special_tokens(tokenizer)
    ids = tokenizer.encode("water").ids
    assert (ids[0], ids[-1]) == (*special.opening, *special.closing)
    assert special.is_special(tokenizer.encode("water").ids).tolist()[1:-1] == [False] * (
        len(ids) - 2
    )

    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(subwords.tokenizer_json(64))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("cold water 桥")["input_ids"] == tokenizer.encode("cold water 桥").ids
    assert theirs.mask_token_id == special.mask
    assert theirs.pad_token_id == special.pad
    assert theirs.model_max_length == 64


def test_the_same_texts_give_the_same_wordpieces():
    # Letters whose merges are equally frequent, in many orders.
    texts = ["".join(letters) for letters in permutations("abcdefg")][:3000] + ["e\u030ax y"]
    made = {subwords.train_tokenizer(lambda: texts, "wordpiece", 300).to_str() for _ in range(4)}
    assert len(made) == 1


def test_han_characters_are_words_of_their_own_and_none_is_unknown():
    # More characters than trainers keep by default.
    text = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 1500))
    tokenizer = subwords.train_tokenizer(lambda: [text], "wordpiece", 2100)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    assert len(encoding.ids) == 1500
    assert tokenizer.token_to_id("[UNK]") not in encoding.ids


def test_special_tokens_of_families(tiny_model):
    bert = subwords.special_tokens(load_tokenizer(tiny_model("bert")))
    roberta = subwords.special_tokens(load_tokenizer(tiny_model("xlm-roberta")))
    for special in (bert, roberta):
        assert len(special.opening) == len(special.closing) == 1
        assert {special.mask, special.pad, *special.opening, *special.closing} <= set(
            special.special
        )


def test_a_tokenizer_without_a_mask_is_an_error_that_names_the_model():
    from tokenizers import Tokenizer, models

    with pytest.raises(ConfigError, match="--model_id 'gpt': its tokenizer has none of the masks"):
        subwords.special_tokens(Tokenizer(models.WordLevel({"a": 0}, "a")), "gpt")


def test_a_vocabulary_beyond_the_embeddings_is_an_error_with_both_numbers():
    special = subwords.special_tokens(subwords.train_tokenizer(lambda: TEXTS, "wordpiece", 120))
    subwords.check_vocabulary(special, special.vocab_size, "m")
    with pytest.raises(ConfigError, match="ids up to 119, its embeddings have 100 rows"):
        subwords.check_vocabulary(special, 100, "m")
