"""Vocabularies of word pieces, trained on texts, and the special tokens of any vocabulary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lexbeam.models.config import ConfigError
from lexbeam.models.encoder_windows import surrounding_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer, models

PAD, UNKNOWN, OPENING, CLOSING, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
_SPECIAL = [PAD, UNKNOWN, OPENING, CLOSING, MASK]
_MASKS = (MASK, "<mask>")
_PADS = (PAD, "<pad>")
# So many of the vocabulary may be single characters: Han characters are not spelt by others.
_ALPHABET_SHARE = 0.75


def train_tokenizer(
    texts: Callable[[], Iterable[str]], vocabulary: str, vocab_size: int
) -> Tokenizer:
    """A tokenizer for Chinese and English: lower case, and each Han character a word (WordPiece).

    The same texts give the same WordPiece tokenizer; the probabilities of Unigram's pieces, which
    threads add up, may differ in their last digits, and so rare pieces.

    Args:
        texts: gives what it is trained on, each time it is called.
        vocabulary: `wordpiece` (Devlin et al. 2019) or `unigram` (Kudo 2018).
        vocab_size: tokens at most; fewer where the texts do not hold as many.
    """
    from tokenizers import processors

    train = _train_wordpiece if vocabulary == "wordpiece" else _train_unigram
    tokenizer = train(texts, vocab_size)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{OPENING} $A {CLOSING}",
        pair=f"{OPENING} $A {CLOSING} $B {CLOSING}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (OPENING, CLOSING)],
    )
    return tokenizer


def _train_wordpiece(texts: Callable[[], Iterable[str]], vocab_size: int) -> Tokenizer:
    from tokenizers import models

    trained = _wordpiece_of(models.WordPiece(unk_token=UNKNOWN))
    alphabet = _alphabet(trained, texts(), int(_ALPHABET_SHARE * vocab_size))
    # Left to itself the trainer numbers characters as a hash table has them, and merges that are
    # equally frequent go by these numbers. So they are numbered first: what it finds without a
    # single merge, sorted.
    _train(trained, texts(), 0, alphabet, [])
    found = sorted(trained.get_vocab())
    numbered = [token for token in found if len(token.removeprefix("##")) == 1]
    trained = _wordpiece_of(models.WordPiece(unk_token=UNKNOWN))
    _train(trained, texts(), vocab_size, alphabet, [*_SPECIAL, *numbered])
    tokenizer = _wordpiece_of(models.WordPiece(trained.get_vocab(), unk_token=UNKNOWN))
    tokenizer.add_special_tokens(_SPECIAL)
    return tokenizer


def _wordpiece_of(model: models.WordPiece) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _train(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    vocab_size: int,
    alphabet: list[str],
    numbered: list[str],
) -> None:
    """Train on texts, with characters of the alphabet alone; `numbered` tokens come first."""
    from tokenizers.trainers import WordPieceTrainer

    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=numbered,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)


def _alphabet(tokenizer: Tokenizer, texts: Iterable[str], most: int) -> list[str]:
    """The commonest characters of the texts, as the tokenizer normalises them."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    characters = [each for each in counts if not each.isspace()]
    return sorted(characters, key=lambda each: (-counts[each], each))[:most]


def _train_unigram(texts: Callable[[], Iterable[str]], vocab_size: int) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.trainers import UnigramTrainer

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=vocab_size, special_tokens=_SPECIAL, unk_token=UNKNOWN, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def tokenizer_json(max_seq_length: int) -> str:
    """What tokenizer_config.json says of such a tokenizer, for transformers."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_seq_length,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "cls_token": OPENING,
        "sep_token": CLOSING,
        "mask_token": MASK,
    }
    return json.dumps(config, indent=2) + "\n"


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that are no part of a text.

    Attributes:
        opening, closing: put before and after a text.
        mask: stands for a token that is to be foretold.
        pad: fills batches up, elsewhere.
        special: all ids that are never masked, and never stand for others.
        vocab_size: one more than the largest id.
    """

    opening: tuple[int, ...]
    closing: tuple[int, ...]
    mask: int
    pad: int
    special: tuple[int, ...]
    vocab_size: int

    def is_special(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Of each id whether it is one of them."""
        return np.isin(ids, self.special)


def special_tokens(tokenizer: Tokenizer, model_id: str = "") -> SpecialTokens:
    """The special tokens of a tokenizer.

    Raises ConfigError naming the model where it has no mask, or cannot encode a letter.
    """
    mask, pad = (_first_id(tokenizer, names) for names in (_MASKS, _PADS))
    if mask is None:
        reason = f"its tokenizer has none of the masks {', '.join(_MASKS)}"
        raise ConfigError("model_id", model_id, reason)
    around = surrounding_ids(tokenizer)
    if around is None:
        raise ConfigError("model_id", model_id, "its tokenizer cannot encode a letter")
    opening, closing = (tuple(part.tolist()) for part in around)
    added = tokenizer.get_added_tokens_decoder()
    special = {index for index, token in added.items() if token.special}
    return SpecialTokens(
        opening=opening,
        closing=closing,
        mask=mask,
        pad=pad or 0,
        special=tuple(sorted({*special, mask, *opening, *closing})),
        vocab_size=max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
    )


def _first_id(tokenizer: Tokenizer, names: Iterable[str]) -> int | None:
    """Id of the first of the names that the tokenizer has."""
    return next((found for n in names if (found := tokenizer.token_to_id(n)) is not None), None)


def check_vocabulary(special: SpecialTokens, num_rows: int, model_id: str) -> None:
    """Raise ConfigError where a tokenizer has ids beyond the rows of the embeddings."""
    if special.vocab_size > num_rows:
        reason = (
            f"its tokenizer has ids up to {special.vocab_size - 1:,}, its embeddings have "
            f"{num_rows:,} rows"
        )
        raise ConfigError("model_id", model_id, reason)


def read_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a folder's tokenizer.json; it neither truncates nor pads."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(directory, "tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
