"""A block's tokens as flat arrays: what TextRank and the keyphrases compute on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models.config import LANGUAGES
from lexbeam.models.counts import list_lengths, row_offsets
from lexbeam.models.word_flags import UInt8Array, word_flags

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TokenBlock:
    """Tokens of a block of documents, one after the other.

    Attributes:
        offsets: (num_documents + 1,) where each document's tokens begin and end.
        codes: (num_tokens,) index of each token into `terms`.
        terms: (num_terms,) string, the distinct tokens.
        kinds: (num_tokens,) kind of each token (`schemas.TERM` and following).
        starts: (num_tokens,) first code point of each token in its document's content.
        ends: (num_tokens,) code point after the last one.
        languages: (num_documents,) index into `config.LANGUAGES`; -1 for a null row.
        flags: (num_tokens,) uint8, see `word_flags`.
    """

    offsets: Int64Array
    codes: Int32Array
    terms: pa.StringArray
    kinds: Int8Array
    starts: Int32Array
    ends: Int32Array
    languages: Int8Array
    flags: UInt8Array

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> TokenBlock:
        """Flatten the columns language, tokens, kinds, starts and ends of a block.

        A row whose tokens are null is a document without tokens.

        Raises:
            ValueError: the columns are not aligned, or a language is unknown.
        """
        lists = batch.column("tokens")
        lengths = list_lengths(lists)
        encoded = lists.flatten().dictionary_encode()
        items = {}
        for name in ("kinds", "starts", "ends"):
            column = batch.column(name)
            if not np.array_equal(list_lengths(column), lengths):
                raise ValueError(f"tokens and {name} must have the same number of items")
            items[name] = column.flatten()
        # A copy, since kernels would be compiled once more for what cannot be written.
        codes = np.array(encoded.indices, dtype=np.int32)
        terms = encoded.dictionary.cast(pa.string())
        languages = _language_codes(batch.column("language"), lists)
        return cls(
            offsets=row_offsets(lengths),
            codes=codes,
            terms=terms,
            kinds=np.asarray(items["kinds"], dtype=np.int8),
            starts=np.asarray(items["starts"], dtype=np.int32),
            ends=np.asarray(items["ends"], dtype=np.int32),
            languages=languages,
            flags=_flags(codes, terms, np.repeat(languages, lengths)),
        )

    @property
    def num_documents(self) -> int:
        """Rows of the block, null ones included."""
        return len(self.languages)

    @cached_property
    def documents(self) -> Int64Array:
        """(num_tokens,) the document of each token."""
        return np.repeat(np.arange(self.num_documents), np.diff(self.offsets))

    @cached_property
    def token_languages(self) -> Int8Array:
        """(num_tokens,) the language of each token's document."""
        return self.languages[self.documents]

    def select_terms(self, mask: BoolArray) -> tuple[Int64Array, list[str]]:
        """Codes, ascending, and strings of the distinct tokens among those of `mask`."""
        used = np.zeros(len(self.terms), dtype=np.bool_)
        used[self.codes[mask]] = True
        codes = np.flatnonzero(used)
        return codes, self.terms.take(pa.array(codes)).to_pylist()


def _flags(codes: Int32Array, terms: pa.StringArray, token_languages: Int8Array) -> UInt8Array:
    """(num_tokens,) flags of each token in the language of its document."""
    flags = np.zeros(len(codes), np.uint8)
    for code, language in enumerate(LANGUAGES):
        spoken = token_languages == code
        if not spoken.any():
            continue
        used = np.zeros(len(terms), np.bool_)
        used[codes[spoken]] = True
        by_term = np.zeros(len(terms), np.uint8)
        by_term[used] = word_flags(terms.filter(pa.array(used)).to_pylist(), language)
        flags[spoken] = by_term[codes[spoken]]
    return flags


def _language_codes(languages: pa.StringArray, lists: pa.ListArray) -> Int8Array:
    codes = np.full(len(languages), -1, dtype=np.int8)
    rows = zip(languages.to_pylist(), lists.is_valid().to_pylist(), strict=True)
    for row, (language, is_document) in enumerate(rows):
        if is_document and language not in LANGUAGES:
            raise ValueError(f"document {row} of the block has the unknown language {language!r}")
        codes[row] = LANGUAGES.index(language) if is_document else -1
    return codes
