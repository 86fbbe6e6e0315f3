"""Fused keywords: candidate phrases ranked by corpus counts, TextRank and received attention.

The steps: candidate phrases (`keyphrase_candidates`), counts of phrases in the corpus
(`keyphrase_counts`), features, each standardised within the document, and their weighted sum
(`keyphrase_weights`). The features of a candidate:

- `tfidf` = ln(1 + tf) * idf, idf = ln((N + 1) / (df + 1)) + 1 with N and df of the document's
  language; a phrase that the corpus counts lack has df 1;
- `tr10` = ln(100 * sum of the TextRank scores of its words + 1e-3), words of one stem together;
- `att` = ln(sum over its occurrences, and the sub-words that overlap them, of received attention
  + 1e-2). Received attention of a sub-word: the sum of softmax(Q K' / sqrt(d)) over heads and
  query positions of the last layer;
- `nw` words, `nw1` = [one word], `trsub` = highest tf of a longer candidate that contains it
  divided by its tf (Chinese), `rep` = [at least two occurrences in the corpus];
- `pos` = ln(1 + tokens before its first occurrence / 100), whose differences are small in a short
  text (`keyphrase_weights.MIN_DEVIATIONS`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lexbeam.models import keyphrase_kernels, schemas
from lexbeam.models.config import LANGUAGES
from lexbeam.models.counts import list_lengths, make_lists, row_offsets
from lexbeam.models.keyphrase_candidates import EN, OTHER, ZH, Candidates, find_candidates
from lexbeam.models.keyphrase_candidates import phrase_lists as phrase_lists
from lexbeam.models.keyphrase_counts import PhraseCounts as PhraseCounts
from lexbeam.models.keyphrase_counts import cached_phrase_counts as cached_phrase_counts
from lexbeam.models.keyphrase_weights import (
    FEATURE_NAMES,
    MIN_DEVIATIONS,
    FeatureWeights,
    KeyphraseWeights,
)
from lexbeam.models.phrase_kernels import best_places, number_by_document
from lexbeam.models.textrank import WordScores

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_TEXTRANK_SCALE, _TEXTRANK_FLOOR = 100.0, 1e-3
_ATTENTION_FLOOR = 1e-2
_POSITION_SCALE = 1e-2


@dataclass(frozen=True)
class CandidateFeatures:
    """Features of a block's candidates.

    Attributes:
        values: (num_features, num_candidates) float64, rows in the order of `FEATURE_NAMES`.
        has_attention: (num_documents,) whether the document was encoded.
    """

    values: Float64Array
    has_attention: npt.NDArray[np.bool_]


def keywords(
    batch: pa.RecordBatch,
    phrase_counts: PhraseCounts | None,
    encoded: pa.RecordBatch | None,
    top_k: int,
    weights: KeyphraseWeights | None = None,
    word_scores: WordScores | None = None,
    candidates: Candidates | None = None,
) -> pa.ListArray:
    """The fused keywords of every document.

    Args:
        batch: columns content, language, tokens, kinds, starts, ends; a row without tokens gets
            null.
        phrase_counts: of the corpus; None for documents without one.
        encoded: columns attention_starts, attention_ends, attention of
            `schemas.encoded_schema`, row-aligned with `batch`; None where nothing was encoded. A
            document whose attention is null takes the weights without attention.
        top_k: keywords a document at most, at least 1.
        weights: of the features; the defaults if None.
        word_scores: `textrank.word_scores` of the same batch; without them `tr10` adds nothing.
        candidates: `find_candidates(batch)`, where it is there already.

    Returns:
        `schemas.KEYWORDS`, best first, equal float32 scores in term order. English phrases, and
        those of other languages, in the form that stands most often in the document (the first
        of several), white space collapsed; Chinese ones normalised.

    Raises:
        ValueError: `top_k` is below 1, or the batches are not aligned.
    """
    found = find_candidates(batch) if candidates is None else candidates
    features = candidate_features(found, phrase_counts, encoded, word_scores)
    offsets = row_offsets(np.bincount(found.documents, minlength=batch.num_rows))
    by_document = _document_weights(
        found.block.languages, features.has_attention, weights or KeyphraseWeights()
    )
    scores = keyphrase_kernels.fuse(offsets, features.values, min_deviations(), by_document)
    return _best(batch, found, scores, top_k)


def keywords_bert(
    batch: pa.RecordBatch,
    encoded: pa.RecordBatch,
    top_k: int,
    candidates: Candidates | None = None,
) -> pa.ListArray:
    """Candidate phrases ranked by the attention that they receive.

    The score is the feature `att`; in Chinese, where candidates are nested and a longer one never
    receives less than its parts, att - ln(words) / 2.

    Args, result and errors are those of `keywords`; a document whose attention is null has an
    empty list.
    """
    found = find_candidates(batch) if candidates is None else candidates
    attention, has_attention = received_attention(found, encoded)
    scores = keyphrase_kernels.log_of_sums(attention, 1.0, _ATTENTION_FLOOR)
    num_words = keyphrase_kernels.log_of_sums(found.num_words.astype(np.float64), 1.0, 0.0)
    scores -= (found.block.languages[found.documents] == ZH) * num_words / 2
    return _best(batch, found, scores, top_k, has_attention[found.documents])


def candidate_features(
    found: Candidates,
    phrase_counts: PhraseCounts | None,
    encoded: pa.RecordBatch | None,
    word_scores: WordScores | None,
) -> CandidateFeatures:
    """Features of the candidates, before they are standardised; arguments as for `keywords`.

    Raises:
        ValueError: the batches are not aligned.
    """
    frequencies = found.term_frequencies
    values = np.zeros((len(FEATURE_NAMES), len(found.documents)))
    rows = dict(zip(FEATURE_NAMES, values, strict=True))
    idf, collection = _corpus_counts(found, phrase_counts)
    rows["tfidf"][:] = keyphrase_kernels.log_of_sums(frequencies.astype(np.float64), 1.0, 1.0)
    rows["tfidf"] *= idf
    if word_scores is not None:
        sums = _textrank_sums(found, word_scores)
        rows["tr10"][:] = keyphrase_kernels.log_of_sums(sums, _TEXTRANK_SCALE, _TEXTRANK_FLOOR)
    has_attention = np.zeros(found.block.num_documents, dtype=np.bool_)
    if encoded is not None:
        attention, has_attention = received_attention(found, encoded)
        rows["att"][:] = keyphrase_kernels.log_of_sums(attention, 1.0, _ATTENTION_FLOOR)
    rows["nw"][:] = found.num_words
    rows["nw1"][:] = found.num_words == 1
    containing = keyphrase_kernels.containing_frequency(
        found.firsts, found.lengths, found.phrases, frequencies
    )
    rows["trsub"][:] = containing / np.maximum(frequencies, 1)
    rows["rep"][:] = collection >= 2
    before = found.firsts[found.leads] - found.block.offsets[found.documents]
    rows["pos"][:] = keyphrase_kernels.log_of_sums(before.astype(np.float64), _POSITION_SCALE, 1.0)
    return CandidateFeatures(values, has_attention)


def min_deviations() -> Float64Array:
    """(num_features,) `keyphrase_weights.MIN_DEVIATIONS`, for the kernels."""
    return np.array(list(MIN_DEVIATIONS.values()))


def received_attention(
    found: Candidates, encoded: pa.RecordBatch
) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
    """Attention received by each candidate, and which documents have any attention.

    Args:
        found: the candidates of a block.
        encoded: columns attention_starts, attention_ends, attention; windows that overlap all
            contribute.

    Returns:
        (num_candidates,) float64 and (num_documents,) bool.

    Raises:
        ValueError: the two blocks, or the columns, are not aligned.
    """
    lists = encoded.column("attention")
    lengths = list_lengths(lists)
    if len(lists) != found.block.num_documents:
        raise ValueError("batch and encoded must have the same number of rows")
    arrays = []
    for name, dtype in (("attention_starts", np.int32), ("attention_ends", np.int32)):
        column = encoded.column(name)
        if not np.array_equal(list_lengths(column), lengths):
            raise ValueError(f"attention and {name} must have the same number of items")
        arrays.append(np.asarray(column.flatten(), dtype=dtype))
    documents = found.documents[found.phrases]
    sums = keyphrase_kernels.sum_attention(
        row_offsets(lengths),
        *arrays,
        np.asarray(lists.flatten(), dtype=np.float32),
        row_offsets(np.bincount(documents, minlength=len(lists))),
        found.starts,
        found.ends,
        found.phrases,
        len(found.documents),
    )
    return sums, np.asarray(lists.is_valid())


def _corpus_counts(
    found: Candidates, phrase_counts: PhraseCounts | None
) -> tuple[Float64Array, Int64Array]:
    """Idf and collection frequency of each candidate, in its document's language."""
    collection = found.term_frequencies
    document_frequency = np.ones(len(collection), dtype=np.int64)
    ratios = np.ones(len(collection))
    languages = found.block.languages[found.documents]
    for code, language in enumerate(LANGUAGES):
        spoken = np.flatnonzero(languages == code)
        if phrase_counts is None or not len(spoken):
            continue
        keys = found.key_ids[spoken]
        counted = _look_up(found.keys, keys, phrase_counts, language)
        document_frequency[spoken] = np.maximum(counted[0][keys], 1)
        collection[spoken] = np.maximum(counted[1][keys], collection[spoken])
        # A document of a language that the corpus lacks stands for itself.
        num_documents = max(phrase_counts.num_documents.get(language, 0), 1)
        ratios[spoken] = (num_documents + 1) / (document_frequency[spoken] + 1)
    return keyphrase_kernels.log_of_sums(ratios, 1.0, 0.0) + 1.0, collection


def _look_up(
    strings: pa.StringArray, keys: Int64Array, phrase_counts: PhraseCounts, language: str
) -> tuple[Int64Array, Int64Array]:
    """Counts by key: two (len(strings),) int64, 0 for those that are not among `keys`."""
    used = np.zeros(len(strings), np.bool_)
    used[keys] = True
    counts = np.zeros((2, len(strings)), np.int64)
    counts[:, used] = phrase_counts.look_up(strings.filter(pa.array(used)), language)
    return counts[0], counts[1]


def _textrank_sums(found: Candidates, word_scores: WordScores) -> Float64Array:
    """Sum of the scores of each candidate's words, where it first stands.

    Words that are compared alike (by their stems in English) share the sum of their scores.
    """
    nodes = word_scores.token_nodes[found.token_places]
    scored = np.flatnonzero(nodes >= 0)
    documents, num_forms = found.block.documents[scored], int(found.forms.max(initial=0)) + 1
    forms, _ = number_by_document(documents, found.forms[scored].astype(np.int64), num_forms)
    # Each node counts once, at its first token.
    _, heads = number_by_document(documents, nodes[scored], len(word_scores.scores))
    summed = np.bincount(forms[heads], weights=word_scores.scores[nodes[scored][heads]])
    token_scores = np.zeros(len(nodes))
    token_scores[scored] = summed[forms]
    firsts, lengths = found.firsts[found.leads], found.num_words
    sums = np.zeros(len(firsts))
    for place in range(int(lengths.max(initial=0))):
        reaches = lengths > place
        sums[reaches] += token_scores[firsts[reaches] + place]
    return sums


def _document_weights(
    languages: npt.NDArray[np.int8],
    has_attention: npt.NDArray[np.bool_],
    weights: KeyphraseWeights,
) -> Float64Array:
    """(num_documents, num_features) weights of each document's features."""
    sets: list[tuple[bool, bool, FeatureWeights]] = [
        (False, False, weights.english_without_attention),
        (False, True, weights.english),
        (True, False, weights.chinese_without_attention),
        (True, True, weights.chinese),
    ]
    by_document = np.zeros((len(languages), len(FEATURE_NAMES)))
    for is_chinese, is_encoded, features in sets:
        rows = ((languages == ZH) == is_chinese) & (has_attention == is_encoded)
        by_document[rows] = list(features.as_dict().values())
    return by_document


def _best(
    batch: pa.RecordBatch,
    found: Candidates,
    scores: Float64Array,
    top_k: int,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> pa.ListArray:
    """The best candidates of each document, in the form that is shown."""
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    single = scores.astype(np.float32)
    offsets = row_offsets(np.bincount(found.documents, minlength=batch.num_rows))
    if allowed is None:
        allowed = np.ones(len(single), np.bool_)
    chosen = best_places(offsets, single, allowed, np.full(batch.num_rows, top_k))
    terms = _shown_forms(batch, found, chosen)
    documents = found.documents[chosen]
    # Strings compare by code point as their UTF-8 bytes do.
    rows = zip(documents.tolist(), (-single[chosen]).tolist(), terms, strict=True)
    ranked = sorted(rows)
    lengths = np.bincount(documents, minlength=batch.num_rows)
    place = np.arange(len(ranked)) - np.repeat(row_offsets(lengths)[:-1], lengths)
    kept = [row for row, is_kept in zip(ranked, (place < top_k).tolist(), strict=True) if is_kept]
    pairs = pa.StructArray.from_arrays(
        [
            pa.array([term for _, _, term in kept], pa.string()),
            pa.array(np.array([0.0 - score for _, score, _ in kept], dtype=np.float32)),
        ],
        fields=list(schemas.KEYWORDS.value_type),
    )
    offsets = row_offsets(np.minimum(lengths, top_k))
    return make_lists(offsets, pairs, batch.column("tokens")).cast(schemas.KEYWORDS)


def _shown_forms(batch: pa.RecordBatch, found: Candidates, chosen: Int64Array) -> list[str]:
    """The form of each chosen candidate that is shown."""
    shown: list[str] = found.keys.take(pa.array(found.key_ids[chosen])).to_pylist()
    languages = found.block.languages[found.documents[chosen]]
    by_form = np.flatnonzero((languages == EN) | (languages == OTHER))
    if not len(by_form):
        return shown
    place = np.full(len(found.documents), -1, dtype=np.int64)
    place[chosen[by_form]] = by_form
    occurrences = np.flatnonzero(place[found.phrases] >= 0)
    contents = batch.column("content")
    starts, ends = found.starts[occurrences].tolist(), found.ends[occurrences].tolist()
    phrases = found.phrases[occurrences]
    forms: dict[int, Counter[str]] = {}
    text, row = "", -1
    rows = zip(
        found.documents[phrases].tolist(), place[phrases].tolist(), starts, ends, strict=True
    )
    for document, index, start, end in rows:
        if document != row:
            row, text = document, contents[document].as_py()
        form = " ".join(text[start:end].split())
        forms.setdefault(index, Counter())[form] += 1
    for index, counter in forms.items():
        # Of equal counts the form that was met first.
        shown[index] = counter.most_common(1)[0][0]
    return shown
