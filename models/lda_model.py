"""A fitted LDA: its exact sums, its files, and the topics of new documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lexbeam.models import lda_kernels
from lexbeam.models.config import LdaConfig
from lexbeam.models.lda_bow import Bow, Int64Array
from lexbeam.models.lda_statistics import (
    Float64Array,
    topic_term_probabilities,
    variational_weights,
)

FORMAT_VERSION = 1
COUNTS_FILE = "topic_term_counts.npy"
CONFIG_FILE = "config.json"
FOLD_IN_ITERATIONS = 100
FOLD_IN_TOLERANCE = 1e-4  # L1 change of a document's theta
VB_UPDATES = 100  # steps of a document, and the mean change of gamma below which it stops: those
VB_TOLERANCE = 1e-3  # of scikit-learn


def write_arrays(directory: str | Path, counts: Int64Array, values: dict[str, Any]) -> None:
    """Write counts as COUNTS_FILE, then `values` as CONFIG_FILE: the same bytes every time."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / COUNTS_FILE, np.ascontiguousarray(counts, dtype="<i8"), allow_pickle=False)
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def read_arrays(directory: str | Path) -> tuple[Int64Array, dict[str, Any]]:
    """Memory-map the counts of a folder of `write_arrays`.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    folder = Path(directory)
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        shape = (int(values["num_terms"]), int(values["num_topics"]))
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"unknown format {values['format_version']!r}")
        path = folder / COUNTS_FILE
        counts = np.load(path, mmap_mode="r", allow_pickle=False)
        if counts.shape != shape or counts.dtype != np.dtype("<i8"):
            raise ValueError(f"{counts.dtype} of shape {counts.shape}, not int64 of {shape}")
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable LDA model: {error}") from error
    return counts, values


def config_of(values: Mapping[str, Any]) -> LdaConfig:
    """The LdaConfig among the values of a CONFIG_FILE; raises ValueError if one is missing."""
    names = [field.name for field in fields(LdaConfig)]
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{CONFIG_FILE} lacks {', '.join(missing)}")
    return LdaConfig(**{name: values[name] for name in names})


@dataclass(frozen=True, eq=False)
class LdaModel:
    """Topics of a corpus.

    Attributes:
        config: as fitted; its num_topics is the effective K.
        topic_term_counts: (num_terms, num_topics) int64, expected tokens of each term and topic
            in units of 2^-fraction_bits; lambda without the prior.
        passes: passes that were made.
    """

    config: LdaConfig
    topic_term_counts: Int64Array
    passes: int = 0

    @property
    def num_terms(self) -> int:
        """V."""
        return int(self.topic_term_counts.shape[0])

    @property
    def num_topics(self) -> int:
        """K."""
        return int(self.topic_term_counts.shape[1])

    @cached_property
    def topic_totals(self) -> Int64Array:
        """(num_topics,) int64, sums of topic_term_counts over terms."""
        totals: Int64Array = self.topic_term_counts.sum(axis=0, dtype=np.int64)
        return totals

    @property
    def topic_term(self) -> Float64Array:
        """(num_terms, num_topics) float64, phi: p(term | topic); columns sum to 1."""
        return self.padded_topic_term[:, : self.num_topics]

    @cached_property
    def padded_topic_term(self) -> Float64Array:
        """`topic_term` as compiled loops take it: with columns of zeros to whole lanes."""
        return topic_term_probabilities(*self._m_step_arguments)

    @cached_property
    def inference_weights(self) -> Float64Array:
        """What documents are inferred with, padded: phi, or exp(E[log phi]) of `vb`."""
        if self.config.inference == "map":
            return self.padded_topic_term
        return variational_weights(*self._m_step_arguments)

    @property
    def _m_step_arguments(self) -> tuple[Int64Array, float, int]:
        return self.topic_term_counts, self.config.topic_word_prior, self.config.fraction_bits

    @cached_property
    def topic_marginals(self) -> Float64Array:
        """(num_topics,) float64, p(topic): each topic's share of the corpus' tokens."""
        total = int(self.topic_totals.sum(dtype=np.float64))
        if total == 0:
            return np.full(self.num_topics, 1.0 / self.num_topics)
        return self.topic_totals / float(total)

    @cached_property
    def term_marginals(self) -> Float64Array:
        """(num_terms,) float64, p(term) = sum over topics of p(topic) p(term | topic)."""
        marginals = np.zeros(self.num_terms)
        # Topic after topic: numpy's own sum may add in another order on another processor.
        for topic in range(self.num_topics):
            marginals += self.topic_term[:, topic] * self.topic_marginals[topic]
        return marginals

    def save(self, directory: str | Path) -> None:
        """Write the model's files; the same model gives the same bytes."""
        values = asdict(self.config) | {
            "format_version": FORMAT_VERSION,
            "num_terms": self.num_terms,
            "completed_passes": self.passes,
        }
        write_arrays(directory, self.topic_term_counts, values)

    @classmethod
    def load(cls, directory: str | Path) -> LdaModel:
        """Open a saved model, its counts memory-mapped; raises ValueError naming a bad file."""
        counts, values = read_arrays(directory)
        return cls(
            config=config_of(values),
            topic_term_counts=counts,
            passes=int(values["completed_passes"]),
        )


@lru_cache(maxsize=2)
def cached_model(directory: str) -> LdaModel:
    """`LdaModel.load`, once per process and directory."""
    return LdaModel.load(directory)


def fold_in(bow: pa.RecordBatch | Bow, model: LdaModel) -> Float64Array:
    """Topic proportions of documents under a fitted model, phi fixed.

    MAP-EM: theta_dk <- (alpha + n_dk) / (K alpha + n_d) from uniform, until its L1 change is below
    FOLD_IN_TOLERANCE or FOLD_IN_ITERATIONS are done; a model of `vb` by variational Bayes, with
    the same limits as its fit. Each document by itself, so that the answer is the same bits for
    one document or a million.

    Args:
        bow: n documents of `schemas.BOW`, term ids of the model's vocabulary.
        model: the fitted model.

    Returns:
        (n, num_topics) float64; rows sum to 1, those of null and empty documents are uniform.

    Raises:
        ValueError: a term id is not in the model.
    """
    block = bow if isinstance(bow, Bow) else Bow.from_batch(bow)
    block.check_terms(model.num_terms)
    theta = np.empty((len(block), model.num_topics))
    is_vb = model.config.inference == "vb"
    lda_kernels.fold_in(
        block.indptr,
        block.term_ids,
        block.counts,
        model.inference_weights,
        model.config.doc_topic_prior,
        is_vb,
        VB_UPDATES if is_vb else FOLD_IN_ITERATIONS,
        VB_TOLERANCE if is_vb else FOLD_IN_TOLERANCE,
        theta,
    )
    return theta
