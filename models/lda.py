"""Latent Dirichlet allocation by batch MAP-EM (the CVB0 family; Asuncion et al. 2009).

A pass infers every document's topic proportions theta from uniform, with the topics phi of the
pass before, and sums the expected counts n_kw; then phi_kw = (eta + n_kw) / (V eta + n_k). Few
inner iterations act as annealing, more of them in the last pass settle the topics. Sums are
exact (see `lda_statistics`): the model is the same bit for bit for any blocks, order, threads and
workers. `vb`, classic batch variational Bayes, takes the same course with other weights.

A pass is `statistics.add(block, state.e_step())` over the corpus in any parts, with statistics from
`state.begin_pass()`, merged, and then `state.advance(statistics)`; `fit` does that in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lexbeam.models.config import LdaConfig
from lexbeam.models.lda_bow import Bow, BowSource, Int64Array, iterate
from lexbeam.models.lda_export import to_gensim, to_sklearn
from lexbeam.models.lda_kernels import LIKELIHOOD_BITS
from lexbeam.models.lda_model import (
    FORMAT_VERSION,
    VB_TOLERANCE,
    VB_UPDATES,
    LdaModel,
    cached_model,
    config_of,
    fold_in,
    read_arrays,
    write_arrays,
)
from lexbeam.models.lda_outputs import document_topics, keywords_lda, top_term_ids, top_terms
from lexbeam.models.lda_statistics import (
    FRACTION_BITS,
    BoolArray,
    EStep,
    PassTotals,
    SufficientStatistics,
    check_mass,
    start_counts,
    start_spread,
    topic_term_probabilities,
    variational_weights,
    vocabulary_blocks,
)

__all__ = [
    "BoolArray",
    "Bow",
    "BowSource",
    "CorpusSize",
    "EStep",
    "FitProgress",
    "LdaModel",
    "LdaState",
    "PassMetrics",
    "PassTotals",
    "SufficientStatistics",
    "cached_model",
    "check_mass",
    "corpus_size",
    "document_topics",
    "effective_num_topics",
    "fit",
    "fold_in",
    "keywords_lda",
    "to_gensim",
    "to_sklearn",
    "top_term_ids",
    "top_terms",
    "vocabulary_blocks",
]

# Inner iterations of MAP-EM. Six in the last tenth of the passes cost coherence (.01 of NPMI in
# Chinese news), six in none cost likelihood (.01 to .02 nats a token).
ITERATIONS = 3
LAST_ITERATIONS = 6  # of the last pass
MIN_HELD_OUT_DOCUMENTS = 1_000
STOP_TOLERANCE = 1e-3  # nats a held-out token that a pass of the last third must gain


def effective_num_topics(num_topics: int, num_documents: int, num_terms: int = 1) -> int | None:
    """Topics that a corpus can carry.

    Args:
        num_topics: K as asked for.
        num_documents: documents with at least one term of the vocabulary.
        num_terms: terms of the vocabulary.

    Returns:
        K, no more than there are documents; None (no LDA) for fewer than two documents or an
        empty vocabulary.
    """
    if num_documents < 2 or num_terms < 1:
        return None
    return min(num_topics, num_documents)


@dataclass(frozen=True)
class PassMetrics:
    """What a pass measured, with the topics it began with.

    Attributes:
        pass_number: from 1.
        inner_iterations: a document.
        log_likelihood: nats a training token.
        held_out_log_likelihood: nats a token by document completion; None if not measured.
    """

    pass_number: int
    inner_iterations: int
    log_likelihood: float
    held_out_log_likelihood: float | None


@dataclass(frozen=True, kw_only=True)
class FitProgress:
    """How far a fit has come.

    Attributes:
        config: with the effective num_topics.
        num_terms: V.
        completed_passes: passes made.
        held_out_log_likelihood: of the last pass in units of 2^-20 nats; None if not measured.
        is_finished: all passes are made, or the held-out likelihood stands still.
    """

    config: LdaConfig
    num_terms: int
    completed_passes: int = 0
    held_out_log_likelihood: int | None = None
    is_finished: bool = False

    @property
    def inner_iterations(self) -> int:
        """Of the next pass."""
        is_last = self.completed_passes == self.config.passes - 1
        return LAST_ITERATIONS if is_last else ITERATIONS

    @property
    def in_last_third(self) -> bool:
        """Whether the next pass is in the last third: there held-out documents are measured."""
        return 3 * self.completed_passes >= 2 * self.config.passes

    def begin_pass(self) -> SufficientStatistics:
        """Empty sums for the next pass."""
        config = self.config
        return SufficientStatistics(self.num_terms, config.num_topics, config.fraction_bits)

    def after(self, totals: PassTotals) -> FitProgress:
        """The progress after a pass, from its sums over the whole corpus."""
        completed = self.completed_passes + 1
        held_out, num_tokens = totals.held_out_log_likelihood, totals.num_held_out_tokens
        stands_still = False
        if num_tokens and self.held_out_log_likelihood is not None:
            least = STOP_TOLERANCE * num_tokens * 2**LIKELIHOOD_BITS
            stands_still = held_out - self.held_out_log_likelihood < least
        return FitProgress(
            config=self.config,
            num_terms=self.num_terms,
            completed_passes=completed,
            held_out_log_likelihood=held_out if num_tokens else None,
            is_finished=stands_still or completed >= self.config.passes,
        )

    def metrics(self, totals: PassTotals) -> PassMetrics:
        """Measured by the pass that comes next, from its sums."""
        unit = 2.0**-LIKELIHOOD_BITS
        held_out = None
        if totals.num_held_out_tokens:
            held_out = totals.held_out_log_likelihood * unit / totals.num_held_out_tokens
        return PassMetrics(
            pass_number=self.completed_passes + 1,
            inner_iterations=self.inner_iterations,
            log_likelihood=totals.log_likelihood * unit / max(1, totals.num_tokens),
            held_out_log_likelihood=held_out,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self.config) | {
            "format_version": FORMAT_VERSION,
            "num_terms": self.num_terms,
            "completed_passes": self.completed_passes,
            "held_out_log_likelihood": self.held_out_log_likelihood,
            "is_finished": self.is_finished,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FitProgress:
        """The inverse of to_json; raises KeyError, TypeError or ValueError for anything else."""
        held_out = values["held_out_log_likelihood"]
        return cls(
            config=config_of(values),
            num_terms=int(values["num_terms"]),
            completed_passes=int(values["completed_passes"]),
            held_out_log_likelihood=None if held_out is None else int(held_out),
            is_finished=bool(values["is_finished"]),
        )


@dataclass(frozen=True, eq=False)
class LdaState:
    """Everything a fit needs to go on after a pass.

    Attributes:
        progress: how far it has come.
        topic_term_counts: (num_terms, num_topics) int64, sums of the last pass (start values
            before the first) in units of 2^-fraction_bits tokens.
    """

    progress: FitProgress
    topic_term_counts: Int64Array

    @classmethod
    def start(cls, config: LdaConfig, num_terms: int) -> LdaState:
        """The state before the first pass."""
        spread = start_spread(config.passes)
        counts = start_counts(config.seed, 0, num_terms, config.num_topics, spread)
        counts >>= FRACTION_BITS - config.fraction_bits
        return cls(FitProgress(config=config, num_terms=num_terms), counts)

    def e_step(self, *, evaluate: bool = False, reuse: EStep | None = None) -> EStep:
        """How the next pass infers documents.

        Args:
            evaluate: whether held-out documents are measured, if it is a pass that measures them.
            reuse: of a pass before; its memory is used again.
        """
        config, is_vb = self.progress.config, self.progress.config.inference == "vb"
        evaluate = evaluate and self.progress.in_last_third
        arguments = (self.topic_term_counts, config.topic_word_prior, config.fraction_bits)
        out = None if reuse is None else reuse.topic_term
        if is_vb:
            weights = variational_weights(*arguments, out=out)
            probabilities = topic_term_probabilities(*arguments) if evaluate else None
        else:
            weights = probabilities = topic_term_probabilities(*arguments, np.float32, out)
        return EStep(
            topic_term=weights,
            doc_topic_prior=config.doc_topic_prior,
            updates=VB_UPDATES if is_vb else self.progress.inner_iterations - 1,
            tolerance=VB_TOLERANCE if is_vb else 0.0,
            variational=is_vb,
            completion_topics=probabilities if evaluate else None,
        )

    def advance(self, statistics: SufficientStatistics) -> LdaState:
        """The state after a pass, from its sums over the whole corpus."""
        return LdaState(self.progress.after(statistics.totals), statistics.topic_term_counts)

    def model(self) -> LdaModel:
        """The model as of the last pass."""
        return LdaModel(
            self.progress.config, self.topic_term_counts, self.progress.completed_passes
        )

    def save(self, directory: str | Path) -> None:
        """Write a checkpoint; the same state gives the same bytes."""
        write_arrays(directory, self.topic_term_counts, self.progress.to_json())

    @classmethod
    def load(cls, directory: str | Path) -> LdaState:
        """Read a checkpoint; raises ValueError naming a missing or damaged file."""
        counts, values = read_arrays(directory)
        return cls(FitProgress.from_json(values), counts)


class CorpusSize(NamedTuple):
    """What must be known before the first pass, of documents with terms; sizes of parts add up."""

    num_documents: int = 0
    num_entries: int = 0
    num_tokens: int = 0
    num_held_out: int = 0

    @property
    def has_held_out(self) -> bool:
        """Whether enough documents are marked that they are kept out of the topics."""
        return self.num_held_out >= MIN_HELD_OUT_DOCUMENTS


def corpus_size(source: BowSource, held_out: BoolArray | None = None) -> CorpusSize:
    """Measure a corpus, one look at every block.

    Raises:
        ValueError: `held_out` has not one value for every document.
    """
    place = documents = entries = tokens = num_held_out = 0
    for block in iterate(source):
        documents += block.num_documents
        entries += len(block.term_ids)
        tokens += block.num_tokens
        if held_out is not None:
            mask = held_out[place : place + len(block)]
            num_held_out += int(np.count_nonzero(mask & ~block.is_empty[: len(mask)]))
        place += len(block)
    if held_out is not None and len(held_out) != place:
        raise ValueError(f"held_out has {len(held_out)} values for {place} documents")
    return CorpusSize(documents, entries, tokens, num_held_out)


def fit(
    source: BowSource,
    num_terms: int,
    config: LdaConfig,
    *,
    num_threads: int = 1,
    held_out: BoolArray | None = None,
    on_pass: Callable[[LdaState, PassMetrics], None] | None = None,
    state: LdaState | None = None,
) -> LdaModel | None:
    """Fit topics inside one process.

    Memory beside the corpus: (num_threads + 2) x num_topics x num_terms x 8 bytes.

    Args:
        source: a `Bow`, or a function that gives the corpus' blocks (`schemas.BOW` or `Bow`) in
            the same order each time it is called.
        num_terms: V, terms of the vocabulary.
        config: num_topics is reduced to the number of documents.
        num_threads: for the E-step; no bit of the result depends on it.
        held_out: (documents,) bool; where at least 1,000 documents with terms are marked, they
            are kept out of the topics, and passes end in the last third once their likelihood
            gains less than STOP_TOLERANCE a token. With fewer, all documents are fitted.
        on_pass: called after every pass with the state, which it may save, and what the pass
            measured. The state's counts are written over by later passes.
        state: a saved state to go on from; the result has the same bits.

    Returns:
        The model, or None for fewer than two documents with terms or an empty vocabulary.

    Raises:
        ValueError: sums could overflow (the message names a coarser scale), `state` is of another
            fit, or a term id is out of range.
    """
    size = corpus_size(source, held_out)
    num_topics = effective_num_topics(config.num_topics, size.num_documents, num_terms)
    if num_topics is None:
        return None
    check_mass(size.num_tokens, size.num_entries, config.fraction_bits)
    config = replace(config, num_topics=num_topics)
    if state is None:
        state = LdaState.start(config, num_terms)
    elif (state.progress.config, state.progress.num_terms) != (config, num_terms):
        raise ValueError(
            f"the state is of another fit: {state.progress.config}, "
            f"{state.progress.num_terms} terms"
        )
    mask = held_out if size.has_held_out else None
    statistics, step = state.progress.begin_pass(), None
    while not state.progress.is_finished:
        step = state.e_step(evaluate=mask is not None, reuse=step)
        _run_pass(statistics, step, source, mask, num_threads)
        metrics, before = state.progress.metrics(statistics.totals), state
        state = state.advance(statistics)
        if on_pass is not None:
            on_pass(state, metrics)
        statistics.restart(before.topic_term_counts)
    return state.model()


def _run_pass(
    statistics: SufficientStatistics,
    step: EStep,
    source: BowSource,
    held_out: BoolArray | None,
    num_threads: int,
) -> None:
    place = 0
    for block in iterate(source):
        mask = None if held_out is None else held_out[place : place + len(block)]
        statistics.add(block, step, held_out=mask, num_threads=num_threads)
        place += len(block)
