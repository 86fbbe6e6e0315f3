"""Sufficient statistics of batch MAP-EM: exact sums that merge in any order.

What a document adds to topic k and term w, count x responsibility, is rounded to a whole number
of 2^-30 tokens first. Whole numbers add up to the same sum however documents are cut into
blocks, threads, workers and machines.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lexbeam.models import lda_kernels
from lexbeam.models.config import ConfigError
from lexbeam.models.lanes import padded_length
from lexbeam.models.lda_bow import Bow, Int64Array

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FRACTION_BITS = 30
MIN_FRACTION_BITS = 10
BLOCK_BYTES = 999_000  # of rows; a checkpoint's file has a header besides
HELD_OUT_ITERATIONS = 20  # fold-in of a held-out document; a fixed number, to compare passes
_CHUNKS_PER_THREAD = 8  # so that a slow thread does not hold up a pass
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def check_mass(num_tokens: int, num_entries: int, fraction_bits: int) -> None:
    """Raise ConfigError if sums in units of 2^-fraction_bits could leave 64 bits.

    A topic holds at most all tokens, and each entry may have been rounded up by half a unit.
    """

    def fits(bits: int) -> bool:
        return (num_tokens << bits) + num_entries < 1 << 63

    if not fits(fraction_bits):
        coarser = next((bits for bits in range(fraction_bits, -1, -1) if fits(bits)), 0)
        enough = coarser >= MIN_FRACTION_BITS
        advice = f"take {coarser}, a coarser scale" if enough else "split the corpus"
        reason = f"64 bits cannot hold a topic of {num_tokens:,} tokens in units of 2^-"
        raise ConfigError("lda_fraction_bits", fraction_bits, f"{reason}{fraction_bits}: {advice}")


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
    prior: float,
    fraction_bits: int,
    dtype: type[np.floating[Any]] = np.float64,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """M-step of MAP-EM: phi = (eta + n_kw) / (V eta + n_k), as the E-step takes it.

    Args:
        topic_term_counts: (num_terms, num_topics) int64, in units of 2^-fraction_bits tokens.
        prior: topic_word_prior (eta).
        fraction_bits: see above.
        dtype: float32 or float64.
        out: an earlier result, whose memory is used again.

    Returns:
        (num_terms, num_topics padded with zeros to whole lanes) of `dtype`. Asuncion et al. 2009,
        MAP, with eta in place of eta - 1.
    """
    num_terms, num_topics = topic_term_counts.shape
    if out is None:
        out = np.zeros((num_terms, padded_length(num_topics)), dtype)
    totals = topic_term_counts.sum(axis=0, dtype=np.int64)
    unit = 2.0**-fraction_bits
    lda_kernels.topic_probabilities(topic_term_counts, totals, num_terms, prior, unit, out)
    return out


def variational_weights(
    topic_term_counts: Int64Array,
    prior: float,
    fraction_bits: int,
    out: Float64Array | None = None,
) -> Float64Array:
    """M-step of variational Bayes: exp(E[log phi]), for phi ~ Dirichlet(eta + n_k).

    Arguments and result as of `topic_term_probabilities`, float64. Blei, Ng and Jordan 2003.
    """
    from scipy.special import psi

    num_terms, num_topics = topic_term_counts.shape
    if out is None:
        out = np.zeros((num_terms, padded_length(num_topics)))
    weights, unit = out[:, :num_topics], 2.0**-fraction_bits
    np.multiply(topic_term_counts, unit, out=weights)
    weights += prior
    totals = topic_term_counts.sum(axis=0, dtype=np.int64) * unit + num_terms * prior
    psi(weights, out=weights)
    weights -= psi(totals)
    np.exp(weights, out=weights)
    return out


def vocabulary_blocks(num_terms: int, num_topics: int) -> list[slice]:
    """Ranges of terms whose rows of int64 take less than 1 MB each, or are a single row."""
    rows = max(1, BLOCK_BYTES // (8 * num_topics))
    return [slice(first, min(first + rows, num_terms)) for first in range(0, num_terms, rows)]


@dataclass(frozen=True)
class EStep:
    """How the documents of a pass are inferred.

    Attributes:
        topic_term: (num_terms, num_topics padded) float32 or float64, from an M-step.
        doc_topic_prior: alpha.
        updates: steps of a document, at most.
        tolerance: a document's change below which it stops; 0: all its steps are taken.
        variational: whether by variational Bayes, else by MAP-EM.
        completion_topics: p(term | topic), padded, by which held-out documents are measured; None:
            they are not.
    """

    topic_term: npt.NDArray[Any]
    doc_topic_prior: float
    updates: int
    tolerance: float = 0.0
    variational: bool = False
    completion_topics: npt.NDArray[Any] | None = None


class PassTotals(NamedTuple):
    """What a pass sums up beside the topics; see `SufficientStatistics`."""

    log_likelihood: int = 0
    num_tokens: int = 0
    held_out_log_likelihood: int = 0
    num_held_out_tokens: int = 0


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
        self._shards = [self._empty()]
        self._forget()

    def _forget(self) -> None:
        self.log_likelihood = 0
        self.num_tokens = 0
        self.held_out_log_likelihood = 0
        self.num_held_out_tokens = 0
        self._num_used = 1

    def restart(self, spare: Int64Array) -> None:
        """Begin another pass in the memory of this one: new pages cost more than a short pass.

        spare: the `topic_term_counts` of a pass before, which nobody needs any more; it takes the
        place of those of this pass, which somebody does.
        """
        memory = spare.base
        if type(memory) is not np.ndarray or memory.shape != self._shards[0].shape:
            memory = self._empty()
        self._shards[0] = memory
        for shard in self._shards:
            shard[:] = 0
        self._forget()

    def _empty(self) -> Int64Array:
        return np.zeros((self.num_terms, padded_length(self.num_topics)), np.int64)

    @property
    def topic_term_counts(self) -> Int64Array:
        """(num_terms, num_topics) int64, the sums of n_kw; a view."""
        self._collect()
        return self._shards[0][:, : self.num_topics]

    def _collect(self) -> None:
        for shard in self._shards[1 : self._num_used]:
            self._shards[0] += shard
            shard[:] = 0
        self._num_used = 1

    def __getstate__(self) -> dict[str, Any]:
        self._collect()
        return vars(self) | {"_shards": self._shards[:1]}

    def add(
        self,
        bow: Bow,
        step: EStep,
        *,
        held_out: BoolArray | None = None,
        num_threads: int = 1,
    ) -> None:
        """E-step over a block.

        Args:
            bow: the block's documents.
            step: how they are inferred.
            held_out: (documents,) bool; these documents are left out of the sums.
            num_threads: documents are spread over so many; each holds sums of its own.

        Raises:
            ValueError: a term id or a shape is out of range.
        """
        if step.topic_term.shape != self._shards[0].shape:
            raise ValueError(f"topic_term has shape {step.topic_term.shape}")
        bow.check_terms(self.num_terms)
        if held_out is None:
            held_out = np.zeros(len(bow), np.bool_)
        if len(held_out) != len(bow):
            raise ValueError(f"held_out has {len(held_out)} values for {len(bow)} documents")
        self.num_tokens += bow.num_tokens
        if held_out.any():
            left_out = np.repeat(held_out, np.diff(bow.indptr))
            self.num_tokens -= int(bow.counts[left_out].sum(dtype=np.int64))
        chunks = _chunk_queue(bow, num_threads)

        def work(shard: Int64Array) -> tuple[int, int, int]:
            return self._work(chunks, shard, bow, held_out, step)

        while len(self._shards) < num_threads:
            self._shards.append(self._empty())
        self._num_used = max(self._num_used, num_threads)
        if num_threads == 1:
            results = [work(self._shards[0])]
        else:
            with ThreadPoolExecutor(num_threads) as executor:
                results = list(executor.map(work, self._shards[:num_threads]))
        for likelihood, held_out_likelihood, held_out_tokens in results:
            self.log_likelihood += likelihood
            self.held_out_log_likelihood += held_out_likelihood
            self.num_held_out_tokens += held_out_tokens

    def _work(
        self,
        chunks: Iterator[tuple[int, int]],
        sums: Int64Array,
        bow: Bow,
        held_out: BoolArray,
        step: EStep,
    ) -> tuple[int, int, int]:
        """Take chunks while there are any; returns the likelihoods and the held-out tokens."""
        arrays = (bow.indptr, bow.term_ids, bow.counts, held_out)
        likelihood = held_out_likelihood = held_out_tokens = 0
        for first, last in chunks:
            added = lda_kernels.e_step(
                *arrays,
                first,
                last,
                step.topic_term,
                self.num_topics,
                step.doc_topic_prior,
                step.variational,
                step.updates,
                step.tolerance,
                2.0**self.fraction_bits,
                sums,
            )
            likelihood += int(added)
            if step.completion_topics is not None:
                value, tokens = lda_kernels.completion_likelihood(
                    *arrays,
                    first,
                    last,
                    step.completion_topics,
                    self.num_topics,
                    step.doc_topic_prior,
                    HELD_OUT_ITERATIONS,
                )
                held_out_likelihood += int(value)
                held_out_tokens += int(tokens)
        return likelihood, held_out_likelihood, held_out_tokens

    @property
    def totals(self) -> PassTotals:
        """The sums beside the topics."""
        return PassTotals(
            self.log_likelihood,
            self.num_tokens,
            self.held_out_log_likelihood,
            self.num_held_out_tokens,
        )

    def merge(self, other: SufficientStatistics) -> None:
        """Add another part of the corpus; raises ValueError if the shapes or scales differ."""
        mine = (self.num_terms, self.num_topics, self.fraction_bits)
        theirs = (other.num_terms, other.num_topics, other.fraction_bits)
        if mine != theirs:
            raise ValueError(f"cannot merge statistics of {theirs} into those of {mine}")
        self._shards[0][:, : self.num_topics] += other.topic_term_counts
        self.log_likelihood += other.log_likelihood
        self.num_tokens += other.num_tokens
        self.held_out_log_likelihood += other.held_out_log_likelihood
        self.num_held_out_tokens += other.num_held_out_tokens

    def vocabulary_blocks(self) -> Iterator[tuple[int, Int64Array]]:
        """Views of the sums by `vocabulary_blocks`: number of the block, rows of its terms."""
        counts = self.topic_term_counts
        for number, terms in enumerate(vocabulary_blocks(self.num_terms, self.num_topics)):
            yield number, counts[terms]


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
