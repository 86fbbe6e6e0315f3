"""Sufficient statistics of batch MAP-EM: exact sums that merge in any order.

What a document adds to topic k and term w, count x responsibility, is rounded to a whole number
of 2^-30 tokens first. Whole numbers add up to the same sum however documents are cut into
blocks, threads, workers and machines.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from lexbeam.models import lda_kernels
from lexbeam.models.lda_bow import Bow, Int64Array

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FRACTION_BITS = 30
MIN_FRACTION_BITS = 10
BLOCK_BYTES = 1_000_000
HELD_OUT_ITERATIONS = 20  # fold-in of a held-out document; a fixed number, to compare passes
_CHUNKS_PER_THREAD = 8  # so that a slow thread does not hold up a pass
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def check_mass(num_tokens: int, num_entries: int, fraction_bits: int) -> None:
    """Raise ValueError if sums in units of 2^-fraction_bits could leave 64 bits.

    A topic holds at most all tokens, and each entry may have been rounded up by half a unit.
    """

    def fits(bits: int) -> bool:
        return (num_tokens << bits) + num_entries < 1 << 63

    if not fits(fraction_bits):
        coarser = next((bits for bits in range(fraction_bits, -1, -1) if fits(bits)), None)
        advice = f"use fraction_bits={coarser}"
        if coarser is None or coarser < MIN_FRACTION_BITS:
            advice = "split the corpus"
        raise ValueError(
            f"a topic of {num_tokens} tokens overflows 64-bit sums at the scale "
            f"2^-{fraction_bits}: {advice}"
        )


def _splitmix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014), element by element."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def start_spread(passes: int) -> float:
    """How far the start values spread.

    A narrow start works like annealing: topics part slowly, and end in better optima (likelihood
    and coherence, most of all on short Chinese documents). Few passes leave no time for that.
    """
    return min(1.0, 0.05 * (30.0 / passes) ** 2)


def start_counts(
    seed: int, first_term: int, last_term: int, num_topics: int, spread: float
) -> Int64Array:
    """Start values for terms [first_term, last_term): uniform in [1, 1 + spread) tokens.

    Counter-based: a value is a hash of (seed, term, topic), the same in any block.

    Returns:
        (last_term - first_term, num_topics) int64, in units of 2^-FRACTION_BITS tokens.
    """
    key = _splitmix(np.array([seed % 2**64], dtype=np.uint64) + _GOLDEN)
    terms = np.arange(first_term, last_term, dtype=np.uint64)[:, None]
    counter = (terms << np.uint64(32)) + np.arange(num_topics, dtype=np.uint64)[None, :]
    uniform = _splitmix(key ^ _splitmix(counter + _GOLDEN)) >> np.uint64(64 - FRACTION_BITS)
    scaled = (uniform * np.uint64(round(spread * 2**FRACTION_BITS))) >> np.uint64(FRACTION_BITS)
    return scaled.astype(np.int64) + (1 << FRACTION_BITS)


def topic_term_probabilities(
    topic_term_counts: Int64Array,
    topic_totals: Int64Array,
    num_terms: int,
    prior: float,
    fraction_bits: int,
) -> Float64Array:
    """M-step: phi = (eta + n_kw) / (V eta + n_k) of any rows of the sums.

    Args:
        topic_term_counts: (rows, num_topics) int64, in units of 2^-fraction_bits tokens.
        topic_totals: (num_topics,) int64, sums over all terms.
        num_terms: V.
        prior: topic_word_prior (eta).
        fraction_bits: see above.

    Returns:
        (rows, num_topics) float64. Asuncion et al. 2009, MAP, with eta in place of eta - 1.
    """
    unit = 2.0**-fraction_bits
    phi = np.multiply(topic_term_counts, unit, dtype=np.float64)
    phi += prior
    phi /= topic_totals * unit + num_terms * prior
    return phi


class SufficientStatistics:
    """Sums of one pass over any part of the corpus.

    Attributes:
        num_terms, num_topics: V and K.
        fraction_bits: the sums are in units of 2^-fraction_bits tokens.
        log_likelihood: of the training tokens, in units of 2^-20 nats.
        num_tokens: training tokens.
        held_out_log_likelihood: by document completion, in units of 2^-20 nats.
        num_held_out_tokens: tokens it is of.
    """

    def __init__(self, num_terms: int, num_topics: int, fraction_bits: int = FRACTION_BITS) -> None:
        self.num_terms = num_terms
        self.num_topics = num_topics
        self.fraction_bits = fraction_bits
        self.log_likelihood = 0
        self.num_tokens = 0
        self.held_out_log_likelihood = 0
        self.num_held_out_tokens = 0
        self._shards = [np.zeros((num_terms, num_topics), np.int64)]

    @property
    def topic_term_counts(self) -> Int64Array:
        """(num_terms, num_topics) int64, the sums of n_kw."""
        total = self._shards[0]
        while len(self._shards) > 1:
            total += self._shards.pop()
        return total

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_shards": [self.topic_term_counts]}

    def add(
        self,
        bow: Bow,
        topic_term: Float64Array,
        doc_topic_prior: float,
        iterations: int,
        *,
        held_out: BoolArray | None = None,
        evaluate: bool = False,
        num_threads: int = 1,
    ) -> None:
        """E-step over a block.

        Args:
            bow: the block's documents.
            topic_term: (num_terms, num_topics) float64, C order: phi of the pass before.
            doc_topic_prior: alpha.
            iterations: inner iterations a document.
            held_out: (documents,) bool; these documents are left out of the sums.
            evaluate: whether the likelihood of held-out documents is added.
            num_threads: documents are spread over so many; each holds sums of its own.

        Raises:
            ValueError: a term id or a shape is out of range.
        """
        if topic_term.shape != (self.num_terms, self.num_topics):
            raise ValueError(f"topic_term has shape {topic_term.shape}")
        bow.check_terms(self.num_terms)
        if held_out is None:
            held_out = np.zeros(len(bow), np.bool_)
        if len(held_out) != len(bow):
            raise ValueError(f"held_out has {len(held_out)} values for {len(bow)} documents")
        training = np.repeat(~held_out, np.diff(bow.indptr))
        self.num_tokens += int(bow.counts[training].sum(dtype=np.int64))
        arguments = (bow, held_out, topic_term, doc_topic_prior, iterations, evaluate)
        self._run(_chunk_queue(bow, num_threads), num_threads, arguments)

    def _run(
        self, chunks: Iterator[tuple[int, int]], num_threads: int, arguments: tuple[Any, ...]
    ) -> None:
        while len(self._shards) < num_threads:
            self._shards.append(np.zeros((self.num_terms, self.num_topics), np.int64))
        scale = 2.0**self.fraction_bits
        if num_threads == 1:
            results = [_work(chunks, self._shards[0], scale, *arguments)]
        else:
            with ThreadPoolExecutor(num_threads) as executor:
                futures = [
                    executor.submit(_work, chunks, shard, scale, *arguments)
                    for shard in self._shards[:num_threads]
                ]
                results = [future.result() for future in futures]
        for likelihood, held_out_likelihood, held_out_tokens in results:
            self.log_likelihood += likelihood
            self.held_out_log_likelihood += held_out_likelihood
            self.num_held_out_tokens += held_out_tokens

    def merge(self, other: SufficientStatistics) -> None:
        """Add another part of the corpus; raises ValueError if the shapes or scales differ."""
        mine = (self.num_terms, self.num_topics, self.fraction_bits)
        theirs = (other.num_terms, other.num_topics, other.fraction_bits)
        if mine != theirs:
            raise ValueError(f"cannot merge statistics of {theirs} into those of {mine}")
        self._shards[0] += other.topic_term_counts
        self.log_likelihood += other.log_likelihood
        self.num_tokens += other.num_tokens
        self.held_out_log_likelihood += other.held_out_log_likelihood
        self.num_held_out_tokens += other.num_held_out_tokens

    def vocabulary_blocks(self, max_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, Int64Array]]:
        """Views of the sums: (first term, rows of terms), each at most `max_bytes` or one row."""
        counts = self.topic_term_counts
        rows = max(1, max_bytes // (8 * self.num_topics))
        for first in range(0, self.num_terms, rows):
            yield first, counts[first : first + rows]

    def add_vocabulary_block(self, first_term: int, block: Int64Array) -> None:
        """Add rows of sums that another worker emitted."""
        self._shards[0][first_term : first_term + len(block)] += block


class _SharedIterator(Iterator[tuple[int, int]]):
    """An iterator that several threads may draw from."""

    def __init__(self, items: list[tuple[int, int]]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __next__(self) -> tuple[int, int]:
        with self._lock:
            return next(self._items)


def _chunk_queue(bow: Bow, num_threads: int) -> Iterator[tuple[int, int]]:
    return _SharedIterator(bow.chunks(1 if num_threads == 1 else num_threads * _CHUNKS_PER_THREAD))


def _work(
    chunks: Iterator[tuple[int, int]],
    sums: Int64Array,
    scale: float,
    bow: Bow,
    held_out: BoolArray,
    topic_term: Float64Array,
    prior: float,
    iterations: int,
    evaluate: bool,
) -> tuple[int, int, int]:
    """Take chunks while there are any; returns the likelihoods and the held-out tokens."""
    arrays = (bow.indptr, bow.term_ids, bow.counts, held_out)
    likelihood = held_out_likelihood = held_out_tokens = 0
    for first, last in chunks:
        likelihood += int(
            lda_kernels.e_step(*arrays, first, last, topic_term, prior, iterations, scale, sums)
        )
        if evaluate:
            value, tokens = lda_kernels.completion_likelihood(
                *arrays, first, last, topic_term, prior, HELD_OUT_ITERATIONS
            )
            held_out_likelihood += int(value)
            held_out_tokens += int(tokens)
    return likelihood, held_out_likelihood, held_out_tokens
