"""From texts to sequences of model tokens, each with the words that its tokens belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.arrow_lists import list_column
from lexbeam.models.pretraining.subwords import SpecialTokens
from lexbeam.models.training.random import text_key

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Int32Array = npt.NDArray[np.int32]
ByteArray = npt.NDArray[np.uint8]

SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("key", pa.uint64()),
        ("input_ids", pa.list_(pa.int32())),
        ("word_starts", pa.list_(pa.uint8())),
    ]
)
"""A sequence: its shard, its place in it by a random key, its tokens, 1 where a word begins."""

# What becomes of a document; one whose characters the tokenizer drops has nothing to learn.
LEARNED, HELD_OUT = "documents_learned", "documents_held_out"
WITHOUT_TOKENS = "documents_without_tokens"
FATES = (LEARNED, HELD_OUT, WITHOUT_TOKENS)

# Of a sequence the last part in which it may end earlier, where a word begins.
_LOOK_BACK_SHARE = 8


@dataclass(frozen=True)
class Document:
    """A text that is to be cut into sequences.

    Attributes:
        content: the text.
        text_sha256: of the content.
        language: `zh`: words are the segmenter's; else those of the tokenizer.
        starts, ends: of the segmenter's tokens, in code points.
    """

    content: str
    text_sha256: str
    language: str
    starts: Int32Array
    ends: Int32Array


@dataclass(frozen=True)
class SequenceMaker:
    """Cuts texts into sequences.

    Attributes:
        tokenizer: of the model.
        special: its special tokens.
        max_seq_length: tokens of a sequence, special ones included.
        num_shards: of the training sequences; held-out ones have the shard after the last.
        eval_fraction: share of the texts that is held out.
        seed: of keys, and of who is held out.
    """

    tokenizer: Tokenizer
    special: SpecialTokens
    max_seq_length: int
    num_shards: int
    eval_fraction: float
    seed: int

    def sequences(self, documents: Sequence[Document]) -> tuple[pa.RecordBatch, Counter[str]]:
        """All sequences of the documents, in their order, as SCHEMA says, and their FATES.

        A text stands in its sequences whole: none is dropped, however short.
        """
        texts = [document.content for document in documents]
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        rows: list[tuple[int, int, Int32Array, ByteArray]] = []
        fates: Counter[str] = Counter()
        for document, encoding in zip(documents, encodings, strict=True):
            held_out = self.is_held_out(document.text_sha256)
            found = list(self._rows(document, encoding, held_out=held_out))
            rows += found
            fates[(HELD_OUT if held_out else LEARNED) if found else WITHOUT_TOKENS] += 1
        shards, keys, ids, starts = zip(*rows, strict=True) if rows else ((), (), (), ())
        columns = [
            pa.array(shards, pa.int32()),
            pa.array(keys, pa.uint64()),
            list_column(ids, pa.int32()),
            list_column(starts, pa.uint8()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA), fates

    def _rows(
        self, document: Document, encoding: Encoding, *, held_out: bool
    ) -> Iterator[tuple[int, int, Int32Array, ByteArray]]:
        ids = np.array(encoding.ids, np.int32)
        starts = word_starts(document, encoding)
        opening, closing = (
            np.array(part, np.int32) for part in (self.special.opening, self.special.closing)
        )
        capacity = self.max_seq_length - len(opening) - len(closing)
        for number, (first, last) in enumerate(cut(starts, capacity)):
            key = text_key(self.seed, document.text_sha256, number)
            shard = self.num_shards if held_out else key % self.num_shards
            marks = np.ones(len(opening) + last - first + len(closing), np.uint8)
            # What is left of a word that was cut is one.
            marks[len(opening) + 1 : len(opening) + last - first] = starts[first + 1 : last]
            yield shard, key, np.concatenate([opening, ids[first:last], closing]), marks

    def is_held_out(self, text_sha256: str) -> bool:
        """Whether a text is for evaluation; the same text always is, or is not."""
        return text_key(self.seed, text_sha256, -1) < self.eval_fraction * 2.0**64


def word_starts(document: Document, encoding: Encoding) -> ByteArray:
    """(k,) 1 for each of the document's tokens that begins a word, else 0.

    Chinese: a word is the segmenter's, and a token is in the word in which it begins.
    """
    if document.language == "zh":
        begins = np.zeros(len(document.content) + 1, np.int32)
        begins[document.starts] = 1
        begins[document.ends] = 1
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        words = np.cumsum(begins)[offsets[:, 0]]
    else:
        words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    starts = np.ones(len(words), np.uint8)
    starts[1:] = words[1:] != words[:-1]
    return starts


def cut(starts: ByteArray, capacity: int) -> list[tuple[int, int]]:
    """Ranges of a text's tokens that become its sequences: end to end, no token is left out.

    starts: (k,) 1 where a word begins; capacity: tokens a range, at most. A range ends before a
    word where one begins in its last eighth. Raises ValueError unless capacity is positive.
    """
    if capacity < 1:
        raise ValueError(f"a sequence must hold at least one token, not {capacity}")
    ranges, first = [], 0
    while len(starts) - first > capacity:
        last = first + capacity
        earliest = last - capacity // _LOOK_BACK_SHARE
        begun = np.flatnonzero(starts[earliest : last + 1])
        end = earliest + int(begun[-1]) if len(begun) else last
        ranges.append((first, end))
        first = end
    if len(starts) > first:
        ranges.append((first, len(starts)))
    return ranges
