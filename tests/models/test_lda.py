"""LDA: the fit, its exactness laws, its stop and its checkpoints."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import LatentDirichletAllocation

from lexbeam.models import lanes, lda, lda_kernels, lda_statistics, schemas
from lexbeam.models.config import ConfigError, LdaConfig

Floats = npt.NDArray[np.float64]


def to_bow(counts: npt.NDArray[np.int64]) -> lda.Bow:
    """(documents, terms) dense counts as bags of words."""
    documents, term_ids = np.nonzero(counts)
    indptr = np.searchsorted(documents, np.arange(len(counts) + 1)).astype(np.int64)
    values = counts[documents, term_ids].astype(np.int32)
    return lda.Bow(indptr, term_ids.astype(np.int32), values)


def to_batch(counts: npt.NDArray[np.int64]) -> pa.RecordBatch:
    bow = to_bow(counts)
    offsets = pa.array(bow.indptr, pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, v) for v in (bow.term_ids, bow.counts)]
    return pa.RecordBatch.from_arrays(
        [a.cast(t) for a, t in zip(lists, schemas.BOW.types, strict=True)], schema=schemas.BOW
    )


def synthetic(
    num_documents: int = 60, num_topics: int = 4, terms_per_topic: int = 8, seed: int = 1
) -> npt.NDArray[np.int64]:
    """Documents of one or two topics; the topics share no term."""
    generator = np.random.default_rng(seed)
    counts = np.zeros((num_documents, num_topics * terms_per_topic), np.int64)
    for row in counts:
        for topic in generator.choice(num_topics, generator.integers(1, 3), replace=False):
            first = topic * terms_per_topic
            terms = generator.integers(first, first + terms_per_topic, 25)
            np.add.at(row, terms, 1)
    return counts


def reference_fit(counts: npt.NDArray[np.int64], config: LdaConfig) -> Floats:
    """The same MAP-EM with dense arrays and no fixed point; phi, (terms, topics)."""
    num_terms, num_topics = counts.shape[1], config.num_topics
    spread = lda_statistics.start_spread(config.passes)
    sums = lda_statistics.start_counts(config.seed, 0, num_terms, num_topics, spread) / 2.0**30
    for number in range(config.passes):
        eta, alpha = config.topic_word_prior, config.doc_topic_prior
        phi = (sums + eta) / (sums.sum(axis=0) + num_terms * eta)
        iterations = 6 if number == config.passes - 1 else 3
        theta = np.full((len(counts), num_topics), 1.0 / num_topics)
        for _ in range(iterations - 1):
            expected = theta * ((counts / (theta @ phi.T)) @ phi)
            theta = (expected + alpha) / (expected + alpha).sum(axis=1, keepdims=True)
        sums = phi * ((counts / (theta @ phi.T)).T @ theta)
    return (sums + eta) / (sums.sum(axis=0) + num_terms * eta)


@pytest.mark.parametrize("x", [1e-300, 1e-9, 0.3, 0.70710678, 0.99999, 1.0, 1.5, 2.0, 12345.6])
def test_natural_log_agrees_with_the_library(x: float) -> None:
    assert lda_kernels.natural_log(x) == pytest.approx(math.log(x), rel=4e-16, abs=1e-18)


def e_step(phi: Floats, updates: int, *, evaluate: bool = False) -> lda_statistics.EStep:
    """An E-step of MAP-EM in float64; phi: (terms, topics)."""
    rows = np.zeros((len(phi), lanes.padded_length(phi.shape[1])))
    rows[:, : phi.shape[1]] = phi
    return lda_statistics.EStep(rows, 0.1, updates, completion_topics=rows if evaluate else None)


def test_e_step_of_one_document_by_hand() -> None:
    phi = np.array([[0.5, 0.25], [0.5, 0.75]])
    bow = to_bow(np.array([[2, 1]]))
    once = lda.SufficientStatistics(2, 2)
    once.add(bow, e_step(phi, 0))
    # theta = (1/2, 1/2): term 0 is split 2:1, term 1 is split 2:3.
    expected = np.array([[4 / 3, 2 / 3], [0.4, 0.6]])
    assert np.abs(once.topic_term_counts - expected * 2**30).max() <= 1
    likelihood = 2 * math.log(0.375) + math.log(0.625)
    assert once.log_likelihood == round(likelihood * 2**20)
    assert once.num_tokens == 3

    twice = lda.SufficientStatistics(2, 2)
    twice.add(bow, e_step(phi, 1))
    theta = np.array([4 / 3 + 0.4 + 0.1, 2 / 3 + 0.6 + 0.1]) / 3.2
    shares = phi * theta / (phi * theta).sum(axis=1, keepdims=True)
    expected = np.array([[2.0], [1.0]]) * shares
    assert np.abs(twice.topic_term_counts - expected * 2**30).max() <= 1


def test_held_out_likelihood_by_hand() -> None:
    phi = np.array([[0.5, 0.2], [0.3, 0.2], [0.2, 0.6]])
    statistics = lda.SufficientStatistics(3, 2)
    bow = to_bow(np.array([[2, 3, 0], [0, 1, 1]]))
    statistics.add(bow, e_step(phi, 1, evaluate=True), held_out=np.array([True, False]))
    theta = np.full(2, 0.5)
    for _ in range(lda_statistics.HELD_OUT_ITERATIONS):
        theta = (0.1 + 2 * theta * phi[0] / (theta @ phi[0])) / 2.2
    likelihood = 3 * math.log(theta @ phi[1])
    assert statistics.num_held_out_tokens == 3
    assert abs(statistics.held_out_log_likelihood - likelihood * 2**20) <= 1
    assert statistics.num_tokens == 2
    assert abs(statistics.topic_term_counts.sum() - 2 * 2**30) <= 4
    assert statistics.topic_term_counts[0].tolist() == [0, 0]


@pytest.mark.parametrize("num_topics", [1, 3, 4, 7, 16])
def test_fit_equals_a_plain_implementation(num_topics: int) -> None:
    counts = synthetic()
    config = LdaConfig(num_topics=num_topics, passes=11, seed=3)
    model = lda.fit(to_bow(counts), counts.shape[1], config)
    assert model is not None
    np.testing.assert_allclose(model.topic_term, reference_fit(counts, config), atol=1e-6)
    np.testing.assert_allclose(model.topic_term.sum(axis=0), 1.0, rtol=1e-12)


class Start(np.random.RandomState):
    """Gives scikit-learn lexbeam's start: topics as they are, and documents from uniform."""

    def __init__(self, topics: Floats) -> None:
        super().__init__(0)
        self.topics = topics

    def gamma(self, shape: object, scale: object = 1.0, size: object = None) -> Floats:
        assert isinstance(size, tuple)
        return self.topics.copy() if size == self.topics.shape else np.ones(size)


@pytest.mark.parametrize("num_topics", [1, 4, 9])
def test_vb_equals_scikit_learn_from_the_same_start(num_topics: int) -> None:
    counts = synthetic(80)
    config = LdaConfig(num_topics=num_topics, passes=12, inference="vb", seed=5)
    bow = to_bow(counts)
    start = lda.LdaState.start(config, counts.shape[1])
    peer = LatentDirichletAllocation(
        num_topics,
        doc_topic_prior=config.doc_topic_prior,
        topic_word_prior=config.topic_word_prior,
        learning_method="batch",
        max_iter=config.passes,
        random_state=Start(start.topic_term_counts.T * 2.0**-30 + config.topic_word_prior),
    ).fit(counts)
    model = lda.fit(bow, counts.shape[1], config)
    assert model is not None
    components = model.topic_term_counts.T * 2.0**-30 + config.topic_word_prior
    # Both stop a document at the same step, so they agree better than the 1e-4 that is promised.
    np.testing.assert_allclose(components, peer.components_, rtol=1e-6)
    np.testing.assert_allclose(lda.fold_in(bow, model), peer.transform(counts), rtol=1e-6)


def test_vb_agrees_for_any_threads_and_blocks_and_stops() -> None:
    counts = synthetic(1_300, num_topics=3, terms_per_topic=5)
    held_out = np.arange(len(counts)) % 13 < 10
    config = LdaConfig(num_topics=3, passes=24, inference="vb")
    blocks = [slice(0, 400), slice(400, 401), slice(401, 1300)]
    whole = lda.fit(to_bow(counts), 15, config, held_out=held_out)
    again = lda.fit(
        lambda: (to_bow(counts[block]) for block in blocks),
        15,
        config,
        held_out=held_out,
        num_threads=2,
    )
    assert whole is not None
    assert again is not None
    assert 17 <= whole.passes == again.passes < 24
    np.testing.assert_allclose(again.topic_term, whole.topic_term, rtol=1e-4)
    topics = {frozenset((ids // 5).tolist()) for ids in lda.top_term_ids(whole, 5)}
    assert topics == {frozenset([topic]) for topic in range(3)}


def test_long_documents() -> None:
    num_topics = 64
    generator = np.random.default_rng(5)
    counts = generator.integers(0, 3, (3, 3500))
    counts[1, 40:] = 0
    config = LdaConfig(num_topics=num_topics, passes=3)
    # More documents than topics, but no more terms in them.
    counts = np.concatenate([counts, np.eye(62, 3500, dtype=np.int64)])
    model = lda.fit(to_bow(counts), 3500, config)
    assert model is not None
    np.testing.assert_allclose(model.topic_term, reference_fit(counts, config), atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_known_topics(seed: int) -> None:
    counts = synthetic(num_documents=200, num_topics=5, terms_per_topic=8)
    model = lda.fit(to_bow(counts), counts.shape[1], LdaConfig(num_topics=5, seed=seed))
    assert model is not None
    found = {frozenset((ids // 8).tolist()) for ids in lda.top_term_ids(model, 8)}
    assert found == {frozenset([topic]) for topic in range(5)}


def test_start_values_are_counter_based() -> None:
    whole = lda_statistics.start_counts(7, 0, 50, 6, 0.05)
    parts = [lda_statistics.start_counts(7, a, b, 6, 0.05) for a, b in ((0, 13), (13, 50))]
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole[:, :4], lda_statistics.start_counts(7, 0, 50, 4, 0.05))
    assert not np.array_equal(whole, lda_statistics.start_counts(8, 0, 50, 6, 0.05))
    assert len(np.unique(whole)) == whole.size
    assert whole.min() >= 2**30
    assert whole.max() < 1.05 * 2**30
    # Uniform: mean 1.025, standard error 0.05 / sqrt(12 * 300).
    assert whole.mean() / 2**30 == pytest.approx(1.025, abs=0.004)


def fitted_counts(
    source: lda.BowSource, num_terms: int, **options: object
) -> npt.NDArray[np.int64]:
    config = LdaConfig(num_topics=5, passes=4)
    model = lda.fit(source, num_terms, config, **options)  # type: ignore[arg-type]
    assert model is not None
    return model.topic_term_counts


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(24)), st.sets(st.integers(1, 23)), st.integers(1, 4), st.booleans())
def test_same_bits_for_any_blocks_order_and_threads(
    order: list[int], cuts: set[int], num_threads: int, as_batches: bool
) -> None:
    counts = synthetic(24)
    counts[5] = 0
    expected = fitted_counts(to_bow(counts), counts.shape[1])
    edges = [0, *sorted(cuts), 24]
    parts = [counts[order[a:b]] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    make = to_batch if as_batches else to_bow
    actual = fitted_counts(lambda: map(make, parts), counts.shape[1], num_threads=num_threads)
    assert np.array_equal(actual, expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=20, max_size=20), st.permutations(range(4)))
def test_statistics_merge_in_any_split_and_order(owners: list[int], order: list[int]) -> None:
    counts = synthetic(20)
    # Several blocks of a vocabulary of 32 terms.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lda_statistics, "BLOCK_BYTES", 7 * 8 * 5)
        check_merging(counts, owners, order)


def check_merging(counts: npt.NDArray[np.int64], owners: list[int], order: list[int]) -> None:
    state = lda.LdaState.start(LdaConfig(num_topics=5), counts.shape[1])
    phi = state.e_step().topic_term
    step = lda_statistics.EStep(phi, 0.1, 2, completion_topics=phi)
    held_out = np.arange(20) % 3 == 0

    def statistics_of(rows: npt.NDArray[np.bool_]) -> lda.SufficientStatistics:
        statistics = state.progress.begin_pass()
        mask = held_out[rows]
        statistics.add(to_bow(counts[rows]), step, held_out=mask)
        return statistics

    whole = statistics_of(np.ones(20, np.bool_))
    merged = state.progress.begin_pass()
    blocks = np.zeros_like(state.topic_term_counts)
    for owner in order:
        part = statistics_of(np.array(owners) == owner)
        part = pickle.loads(pickle.dumps(part))
        merged.merge(part)
        for number, rows in part.vocabulary_blocks():
            blocks[lda.vocabulary_blocks(len(blocks), 5)[number]] += rows
    assert np.array_equal(merged.topic_term_counts, whole.topic_term_counts)
    assert np.array_equal(blocks, whole.topic_term_counts)
    assert merged.totals == whole.totals
    assert 0 not in whole.totals


def test_vocabulary_blocks_are_small_views() -> None:
    statistics = lda.SufficientStatistics(10_000, 50)
    blocks = list(statistics.vocabulary_blocks())
    assert all(rows.nbytes <= 1_000_000 for _, rows in blocks)
    assert all(np.shares_memory(rows, statistics.topic_term_counts) for _, rows in blocks)
    assert [number for number, _ in blocks] == [0, 1, 2, 3, 4]
    assert sum(len(rows) for _, rows in blocks) == 10_000
    assert lda.vocabulary_blocks(3, 200_000) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_merge_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        lda.SufficientStatistics(3, 2).merge(lda.SufficientStatistics(3, 2, fraction_bits=20))


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_resumed_fit_has_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    counts = synthetic()
    config, bow = LdaConfig(num_topics=5, passes=6), to_bow(counts)
    passes: list[int] = []

    def save(state: lda.LdaState, metrics: lda.PassMetrics) -> None:
        assert state.progress.completed_passes == metrics.pass_number
        passes.append(metrics.inner_iterations)
        if metrics.pass_number == stop_after:
            state.save(tmp_path / "once")
            state.save(tmp_path / "again")

    expected = lda.fit(bow, counts.shape[1], config, on_pass=save)
    assert passes == [3, 3, 3, 3, 3, 6]
    for name in ("config.json", "topic_term_counts.npy"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    state = lda.LdaState.load(tmp_path / "once")
    actual = lda.fit(bow, counts.shape[1], config, state=state)
    assert expected is not None
    assert actual is not None
    assert np.array_equal(actual.topic_term_counts, expected.topic_term_counts)
    assert actual.passes == expected.passes == 6
    with pytest.raises(ValueError, match="another fit"):
        lda.fit(bow, counts.shape[1], LdaConfig(num_topics=5, passes=7), state=state)


def test_likelihood_rises() -> None:
    counts = synthetic()
    metrics: list[lda.PassMetrics] = []
    config = LdaConfig(num_topics=4)
    lda.fit(to_bow(counts), counts.shape[1], config, on_pass=lambda _, m: metrics.append(m))
    values = [m.log_likelihood for m in metrics]
    assert len(values) == 30
    assert values[-1] > values[0] + 0.5
    assert all(m.held_out_log_likelihood is None for m in metrics)


def test_stops_once_held_out_documents_gain_nothing() -> None:
    counts = synthetic(1_300, num_topics=3, terms_per_topic=5)
    held_out = np.arange(len(counts)) % 13 < 10
    assert held_out.sum() == lda.MIN_HELD_OUT_DOCUMENTS
    config = LdaConfig(num_topics=3, passes=24)
    metrics: list[lda.PassMetrics] = []
    model = lda.fit(
        to_bow(counts), 15, config, held_out=held_out, on_pass=lambda _, m: metrics.append(m)
    )
    assert model is not None
    assert 18 <= model.passes < 24
    measured = [m.held_out_log_likelihood for m in metrics]
    assert measured[:16] == [None] * 16
    gains = np.diff(np.array(measured[16:], dtype=np.float64))
    assert (gains[:-1] >= lda.STOP_TOLERANCE).all()
    assert gains[-1] < lda.STOP_TOLERANCE
    training_tokens = counts[~held_out].sum()
    assert model.topic_totals.sum() / 2**30 == pytest.approx(training_tokens, rel=1e-6)
    blocks = [slice(0, 400), slice(400, 401), slice(401, 1300)]
    again = lda.fit(
        lambda: (to_bow(counts[block]) for block in blocks),
        15,
        config,
        held_out=held_out,
        num_threads=2,
    )
    assert again is not None
    assert again.passes == model.passes
    assert np.array_equal(again.topic_term_counts, model.topic_term_counts)


def test_few_held_out_documents_are_fitted() -> None:
    counts = synthetic()
    held_out = np.arange(len(counts)) % 2 == 0
    with_mask = fitted_counts(to_bow(counts), counts.shape[1], held_out=held_out)
    assert np.array_equal(with_mask, fitted_counts(to_bow(counts), counts.shape[1]))


@pytest.mark.parametrize(
    ("num_topics", "num_documents", "num_terms", "expected"),
    [(50, 1000, 9, 50), (50, 7, 9, 7), (50, 2, 1, 2), (50, 1, 9, None), (5, 0, 0, None)],
)
def test_effective_num_topics(
    num_topics: int, num_documents: int, num_terms: int, expected: int | None
) -> None:
    assert lda.effective_num_topics(num_topics, num_documents, num_terms) == expected


def test_small_corpora() -> None:
    config = LdaConfig(num_topics=50, passes=2)
    counts = np.array([[1, 0, 2], [0, 0, 0], [0, 3, 0], [1, 1, 1]])
    model = lda.fit(to_bow(counts), 3, config)
    assert model is not None
    assert model.num_topics == model.config.num_topics == 3
    assert lda.fit(to_bow(counts[:2]), 3, config) is None
    assert lda.fit(to_bow(np.zeros((4, 0), np.int64)), 0, config) is None
    assert lda.fit(list, 3, config) is None


def test_overflow_is_found_before_the_fit() -> None:
    tokens = 2**31 - 1
    indptr = np.arange(6, dtype=np.int64)
    bow = lda.Bow(indptr, np.zeros(5, np.int32), np.full(5, tokens, np.int32))
    config = LdaConfig(num_topics=2, passes=2)
    with pytest.raises(ValueError, match=r"--lda_fraction_bits 30: .* take 29"):
        lda.fit(bow, 1, config)
    model = lda.fit(bow, 1, dataclasses.replace(config, fraction_bits=29))
    assert model is not None
    assert model.topic_totals.sum() / 2**29 == pytest.approx(5 * tokens)
    with pytest.raises(ValueError, match="split the corpus"):
        lda_statistics.check_mass(2**60, 10, 30)
    lda_statistics.check_mass(2**33 - 1, 10, 30)


def test_wrong_arguments() -> None:
    bow, config = to_bow(synthetic(4)), LdaConfig(num_topics=2, passes=1)
    with pytest.raises(ValueError, match="outside"):
        lda.fit(bow, 5, config)
    with pytest.raises(ValueError, match="held_out has 3 values for 4"):
        lda.fit(bow, 32, config, held_out=np.zeros(3, np.bool_))
    for bits in (9, 31):
        with pytest.raises(ConfigError, match="lda_fraction_bits"):
            LdaConfig(fraction_bits=bits)


_DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_lda import fitted_counts, synthetic, to_bow
counts = fitted_counts(to_bow(synthetic()), 32)
print(hashlib.sha256(counts.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_same_bits_on_a_processor_without_wide_vectors(tmp_path: Path) -> None:
    digests = set()
    for cpu in ({}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}):
        result = subprocess.run(
            [sys.executable, "-c", _DIGEST, str(Path(__file__).parent)],
            env=os.environ | cpu | {"NUMBA_CACHE_DIR": str(tmp_path / str(len(cpu)))},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(result.stdout)
    assert len(digests) == 1
