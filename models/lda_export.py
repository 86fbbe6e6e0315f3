"""A fitted LDA as a model of gensim or scikit-learn, with the same topics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lexbeam.models.lda_model import LdaModel
from lexbeam.models.lda_statistics import Float64Array

if TYPE_CHECKING:
    from gensim.models import LdaModel as GensimLdaModel
    from sklearn.decomposition import LatentDirichletAllocation


def _load(model_dir: str | Path) -> tuple[LdaModel, list[str], Float64Array]:
    """The model, its terms, and its expected counts in tokens, (num_topics, num_terms)."""
    import pyarrow.parquet as pq

    folder = Path(model_dir)
    model = LdaModel.load(folder / "lda")
    table = pq.read_table(folder / "vocabulary.parquet", columns=["term"])
    terms: list[str] = table["term"].to_pylist()
    if len(terms) != model.num_terms:
        raise ValueError(f"{folder}: {len(terms)} terms, but topics of {model.num_terms}")
    counts = np.array(model.topic_term_counts.T, dtype=np.float64, order="C")
    counts *= 2.0**-model.config.fraction_bits
    return model, terms, counts


def _dictionary(terms: list[str]) -> Any:
    """A gensim dictionary with lexbeam's term ids."""
    from gensim.corpora import Dictionary

    dictionary = Dictionary()
    dictionary.token2id = {term: index for index, term in enumerate(terms)}
    dictionary.id2token = dict(enumerate(terms))
    return dictionary


def to_gensim(model_dir: str | Path) -> GensimLdaModel:
    """The topics as a `gensim.models.LdaModel`, for `CoherenceModel` and pyLDAvis.

    Args:
        model_dir: a run's folder `model` (local), with `vocabulary.parquet` and `lda/`.

    Returns:
        A float64 model: `get_topics()` is phi, (num_topics, num_terms), and word ids are
        lexbeam's term ids. Its inference is gensim's own, variational Bayes.

    Raises:
        ValueError: a file of the model is missing or damaged.
    """
    from gensim.models import LdaModel as GensimLdaModel

    model, terms, counts = _load(model_dir)
    exported = GensimLdaModel(
        num_topics=model.num_topics,
        id2word=_dictionary(terms),
        alpha=np.full(model.num_topics, model.config.doc_topic_prior),
        eta=model.config.topic_word_prior,
        random_state=model.config.seed % 2**32,
        dtype=np.float64,
    )
    exported.state.sstats = counts
    exported.sync_state()
    return exported


def to_sklearn(model_dir: str | Path) -> LatentDirichletAllocation:
    """The topics as a fitted `sklearn.decomposition.LatentDirichletAllocation`.

    Args:
        model_dir: a run's folder `model` (local), with `vocabulary.parquet` and `lda/`.

    Returns:
        The model: `components_`, (num_topics, num_terms), normalised by row, is phi; columns are
        lexbeam's term ids. Its `transform` is scikit-learn's own, variational Bayes.

    Raises:
        ValueError: a file of the model is missing or damaged.
    """
    from scipy.special import psi
    from sklearn.decomposition import LatentDirichletAllocation

    model, terms, counts = _load(model_dir)
    config = model.config
    exported = LatentDirichletAllocation(
        n_components=model.num_topics,
        doc_topic_prior=config.doc_topic_prior,
        topic_word_prior=config.topic_word_prior,
        learning_method="batch",
        max_iter=config.passes,
        random_state=config.seed % 2**32,
    )
    exported.components_ = counts + config.topic_word_prior
    totals = exported.components_.sum(axis=1, keepdims=True)
    exported.exp_dirichlet_component_ = np.exp(psi(exported.components_) - psi(totals))
    exported.doc_topic_prior_ = config.doc_topic_prior
    exported.topic_word_prior_ = config.topic_word_prior
    exported.random_state_ = np.random.RandomState(config.seed % 2**32)
    exported.n_features_in_ = len(terms)
    exported.n_iter_ = exported.n_batch_iter_ = model.passes
    return exported
