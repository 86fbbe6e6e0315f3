"""Candidate keyphrases of documents: which runs of words might be one.

- **English.** The longest runs `(adjective | noun)* noun` (`word_classes.english_class`) of at most
  five words, in which a past participle counts as an adjective, and a gerund as a noun where a
  word stands before it; longer runs are cut where an adjective follows a noun. Compared by the
  Porter stems of their words, joined by a space.
- **Chinese.** Every run of one to four adjacent words of at least two characters together that
  holds no stop word, number or punctuation at its beginning, no stop word or punctuation inside,
  and does not begin with a numeral, measure word, localiser or adverb (by jieba's dictionary);
  compared by its normalised words, joined as in the text.
- **Other languages.** Runs of up to three words between stop words (`other_stop_words`; where no
  list fits the document, its words of up to three letters), Hiragana, numbers and punctuation;
  of longer runs the single words and the pairs of adjacent ones.
- A document that would have none has its single words.

A single line break inside a sentence (the text goes on with a small letter) does not end a phrase
of English and other languages: many texts are wrapped at a column.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, replace

import numba
import numpy as np
import pyarrow as pa
import Stemmer

from lexbeam.models import phrase_strings, schemas
from lexbeam.models.config import LANGUAGES
from lexbeam.models.counts import make_lists, row_offsets
from lexbeam.models.other_stop_words import other_stop_words
from lexbeam.models.phrase_kernels import number_by_document
from lexbeam.models.token_blocks import BoolArray, Int8Array, Int32Array, Int64Array, TokenBlock
from lexbeam.models.word_flags import BREAK, CONTENT, GERUND, INSIDE, ROLE

MAX_ENGLISH_WORDS = 5
MAX_CHINESE_WORDS = 4
MAX_OTHER_WORDS = 3
MIN_CHINESE_CHARACTERS = 2

ZH, EN, OTHER = (LANGUAGES.index(language) for language in ("zh", "en", "other"))

_local = threading.local()


@dataclass(frozen=True)
class Candidates:
    """Candidate phrases of a block, ordered by document and first occurrence.

    Attributes:
        block: the tokens, without line breaks that end nothing.
        token_places: (num_tokens of `block`,) their places among all tokens of the batch.
        forms: (num_tokens of `block`,) code of what each token is compared by.
        firsts: (num_occurrences,) first token of each occurrence, ascending.
        lengths: (num_occurrences,) its words.
        phrases: (num_occurrences,) its candidate.
        documents: (num_candidates,) row of each candidate.
        keys: distinct keys, string.
        key_ids: (num_candidates,) key of each candidate, an index into `keys`.
        leads: (num_candidates,) first occurrence of each.
    """

    block: TokenBlock
    token_places: Int64Array
    forms: Int32Array
    firsts: Int64Array
    lengths: Int64Array
    phrases: Int64Array
    documents: Int64Array
    keys: pa.StringArray
    key_ids: Int64Array
    leads: Int64Array

    @property
    def term_frequencies(self) -> Int64Array:
        """(num_candidates,) occurrences of each."""
        return np.bincount(self.phrases, minlength=len(self.documents)).astype(np.int64)

    @property
    def num_words(self) -> Int64Array:
        """(num_candidates,) words of each, as it first stands."""
        return self.lengths[self.leads]

    @property
    def starts(self) -> Int32Array:
        """(num_occurrences,) first code point of each occurrence."""
        starts: Int32Array = self.block.starts[self.firsts]
        return starts

    @property
    def ends(self) -> Int32Array:
        """(num_occurrences,) code point after each occurrence."""
        ends: Int32Array = self.block.ends[self.firsts + self.lengths - 1]
        return ends


def find_candidates(batch: pa.RecordBatch, whole: TokenBlock | None = None) -> Candidates:
    """Candidate phrases of every document.

    Args:
        batch: columns content, language, tokens, kinds, starts, ends (`schemas.READ_FIELDS` and
            `schemas.TOKEN_FIELDS`); a row whose tokens are null has none.
        whole: `TokenBlock.from_batch(batch)`, where it is there already.

    Raises:
        ValueError: the columns are not aligned, or a language is unknown.
    """
    whole = whole or TokenBlock.from_batch(batch)
    places = np.flatnonzero(~_soft_breaks(whole, batch.column("content")))
    block = _take_tokens(whole, places)
    firsts, lengths = _occurrences(block)
    forms, strings = _forms(block)
    english = block.token_languages[firsts] == EN
    run, leads = phrase_strings.run_ids(block, firsts, lengths, forms)
    keys = phrase_strings.run_strings(
        block, firsts[leads], lengths[leads], forms, strings, english[leads]
    ).dictionary_encode()
    key_ids = np.asarray(keys.indices, dtype=np.int64)[run]
    documents = block.documents[firsts]
    phrases, leads = number_by_document(documents, key_ids, len(keys.dictionary))
    return Candidates(
        block=block,
        token_places=places,
        forms=forms,
        firsts=firsts,
        lengths=lengths,
        phrases=phrases,
        documents=documents[leads],
        keys=keys.dictionary,
        key_ids=key_ids[leads],
        leads=leads,
    )


def phrase_lists(batch: pa.RecordBatch) -> pa.ListArray:
    """Keys of the candidate phrases of each document, repeated as often as they occur.

    Args:
        batch: as for `find_candidates`.

    Returns:
        list<string> in the order of the text, null where `tokens` is null: what
        `counts.count_terms` takes.
    """
    found = find_candidates(batch)
    key_ids = found.key_ids[found.phrases]
    documents = found.documents[found.phrases]
    offsets = row_offsets(np.bincount(documents, minlength=batch.num_rows))
    return make_lists(offsets, found.keys.take(pa.array(key_ids)), batch.column("tokens"))


def _soft_breaks(block: TokenBlock, contents: pa.StringArray) -> BoolArray:
    """(num_tokens,) whether a token is a line break within a sentence."""
    is_soft = np.zeros(len(block.codes), dtype=np.bool_)
    line_feed = block.terms.index("\n").as_py()
    spoken = (block.token_languages == EN) | (block.token_languages == OTHER)
    text, row = "", -1
    for place in np.flatnonzero(spoken & (block.codes == line_feed)).tolist():
        if block.documents[place] != row:
            row = int(block.documents[place])
            text = contents[row].as_py()
        start, end = int(block.starts[place]), int(block.ends[place])
        is_soft[place] = text[end : end + 1].islower() and _is_one_line(text[start:end])
    return is_soft


def _is_one_line(gap: str) -> bool:
    return len(gap.splitlines()) <= 2 and gap.count("\n") <= 1


def _take_tokens(block: TokenBlock, places: Int64Array) -> TokenBlock:
    """The block with the tokens at `places`, ascending, alone."""
    if len(places) == len(block.codes):
        return block
    return replace(
        block,
        offsets=np.searchsorted(places, block.offsets),
        codes=block.codes[places],
        kinds=block.kinds[places],
        starts=block.starts[places],
        ends=block.ends[places],
        flags=block.flags[places],
    )


def _occurrences(block: TokenBlock) -> tuple[Int64Array, Int64Array]:
    """First token and number of words of each occurrence of a candidate, in order."""
    follows = phrase_strings.follows(block)
    firsts, lengths, found = _scan_block(
        block.offsets, block.languages, _roles(block), follows, block.starts, block.ends
    )
    poor = np.flatnonzero(~found & (np.diff(block.offsets) > 0))
    if len(poor):
        is_word = (block.kinds == schemas.TERM) | (block.kinds == schemas.WORD)
        words = np.flatnonzero(is_word & np.isin(block.documents, poor))
        firsts = np.concatenate([firsts, words])
        lengths = np.concatenate([lengths, np.ones(len(words), np.int64)])
        order = np.argsort(firsts, kind="stable")
        firsts, lengths = firsts[order], lengths[order]
    return firsts, lengths


def _roles(block: TokenBlock) -> Int8Array:
    """(num_tokens,) role of each token: breaks a phrase, may be inside, may begin or head it.

    English: an adjective is inside, a noun is content. Chinese: a word that does not begin a
    phrase is inside.
    """
    is_word = (block.kinds == schemas.TERM) | (block.kinds == schemas.WORD)
    roles = np.where(is_word, block.flags & ROLE, BREAK).astype(np.int8)
    numbers = (block.kinds == schemas.NUMBER) & (block.token_languages == ZH)
    roles[numbers] = INSIDE
    words = np.flatnonzero(is_word & (block.token_languages == OTHER))
    if len(words):
        roles[words] = _other_roles(block, words, roles[words])
    return roles


def _other_roles(block: TokenBlock, words: Int64Array, roles: Int8Array) -> Int8Array:
    """(len(words),) roles of the words of documents in other languages; `INSIDE` is a short one."""
    codes, terms = block.select_terms(block.token_languages == OTHER)
    documents = block.documents[words]
    is_stop, has_list = other_stop_words(
        documents, np.searchsorted(codes, block.codes[words]), terms, block.num_documents
    )
    is_function = np.where(has_list[documents], is_stop, roles == INSIDE)
    return np.where(is_function | (roles == BREAK), BREAK, CONTENT).astype(np.int8)


def _forms(block: TokenBlock) -> tuple[Int32Array, pa.StringArray]:
    """What phrases are compared by: a code for each token, and the strings of the codes."""
    english = block.token_languages == EN
    if not english.any():
        return block.codes, block.terms
    codes, words = block.select_terms(english)
    stem_codes = np.zeros(len(block.terms), dtype=np.int32)
    stems = pa.array(list(map(stem, words)), pa.string()).dictionary_encode()
    stem_codes[codes] = len(block.terms) + np.asarray(stems.indices)
    forms = np.where(english, stem_codes[block.codes], block.codes)
    return forms, pa.concat_arrays([block.terms, stems.dictionary])


@functools.lru_cache(maxsize=2**17)
def stem(word: str) -> str:
    """Porter stem of a lower-case English word (Porter 1980)."""
    # A stemmer must not be shared by threads.
    if not hasattr(_local, "stemmer"):
        _local.stemmer = Stemmer.Stemmer("porter", 0)
    stemmed: str = _local.stemmer.stemWord(word)
    return stemmed


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scan_block(
    offsets: Int64Array,
    languages: Int8Array,
    roles: Int8Array,
    follows: BoolArray,
    starts: Int32Array,
    ends: Int32Array,
) -> tuple[Int64Array, Int64Array, BoolArray]:
    """Occurrences of candidates: first tokens, words; and which documents have any."""
    capacity = 0
    for document in range(len(languages)):
        length = offsets[document + 1] - offsets[document]
        capacity += length * (MAX_CHINESE_WORDS if languages[document] == ZH else 2)
    firsts = np.empty(capacity, dtype=np.int64)
    lengths = np.empty(capacity, dtype=np.int64)
    found = np.zeros(len(languages), dtype=np.bool_)
    size = 0
    for document in range(len(languages)):
        before, i = size, offsets[document]
        while i < offsets[document + 1]:
            if roles[i] == BREAK:
                i += 1
                continue
            end = i + 1
            while end < offsets[document + 1] and roles[end] != BREAK and follows[end]:
                end += 1
            if languages[document] == ZH:
                size = _scan_chinese(i, end, roles, starts, ends, firsts, lengths, size)
            elif languages[document] == EN:
                size = _scan_english(i, end, roles, firsts, lengths, size)
            else:
                size = _scan_other(i, end, firsts, lengths, size)
            i = end
        found[document] = size > before
    return firsts[:size].copy(), lengths[:size].copy(), found


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scan_chinese(
    begin: int,
    end: int,
    roles: Int8Array,
    starts: Int32Array,
    ends: Int32Array,
    firsts: Int64Array,
    lengths: Int64Array,
    size: int,
) -> int:
    for first in range(begin, end):
        if roles[first] != CONTENT:
            continue
        for length in range(1, min(MAX_CHINESE_WORDS, end - first) + 1):
            if ends[first + length - 1] - starts[first] >= MIN_CHINESE_CHARACTERS:
                firsts[size] = first
                lengths[size] = length
                size += 1
    return size


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scan_english(
    begin: int, end: int, roles: Int8Array, firsts: Int64Array, lengths: Int64Array, size: int
) -> int:
    first = begin
    while first < end:
        # A gerund without a word before it is a verb.
        if roles[first] == GERUND:
            first += 1
            continue
        last = end
        while last > first and roles[last - 1] == INSIDE:
            last -= 1
        if last - first > MAX_ENGLISH_WORDS:
            last = first
            while last < end and roles[last] == INSIDE:
                last += 1
            while last < end and roles[last] != INSIDE:
                last += 1
        if first < last <= first + MAX_ENGLISH_WORDS:
            firsts[size] = first
            lengths[size] = last - first
            size += 1
        first = max(last, first + 1)
    return size


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scan_other(begin: int, end: int, firsts: Int64Array, lengths: Int64Array, size: int) -> int:
    if end - begin <= MAX_OTHER_WORDS:
        firsts[size] = begin
        lengths[size] = end - begin
        return size + 1
    for first in range(begin, end):
        for length in range(1, min(2, end - first) + 1):
            firsts[size] = first
            lengths[size] = length
            size += 1
    return size
