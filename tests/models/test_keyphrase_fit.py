"""Tests of fitting the weights of the fused keywords to gold keyphrases."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lexbeam.models.counts import row_offsets
from lexbeam.models.keyphrase_fit import MIN_DOCUMENTS, FitProblem, fit_weights
from lexbeam.models.keyphrase_kernels import fuse, standardise
from lexbeam.models.keyphrase_metrics import GoldDocument, score
from lexbeam.models.keyphrase_weights import FEATURE_NAMES, SIGNS, FeatureWeights
from lexbeam.models.keyphrases import min_deviations

START = FeatureWeights(tfidf=0.5, att=0.1, nw=-0.5, rep=0.1)
# What the gold of `problem_of` follows, in units of START's signs: attention, against its start.
TRUTH = {"tfidf": 0.2, "att": 2.0, "nw": -0.5}


def problem_of(num_documents: int, seed: int = 0, noise: float = 0.5) -> FitProblem:
    """Documents whose three gold phrases are those that score best by TRUTH and noise."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(20, 40, num_documents)
    offsets = row_offsets(lengths)
    features = generator.normal(size=(len(FEATURE_NAMES), offsets[-1]))
    weights = np.array([TRUTH.get(name, 0.0) for name in FEATURE_NAMES])
    scores = weights @ standardise(offsets, features, min_deviations()) + generator.normal(
        scale=noise, size=offsets[-1]
    )
    is_gold = np.zeros(offsets[-1], np.bool_)
    for first, last in zip(offsets[:-1], offsets[1:], strict=True):
        is_gold[first + np.argsort(-scores[first:last])[:3]] = True
    ones = np.ones(num_documents)
    return FitProblem(offsets, features, is_gold, np.full(num_documents, 4), ones)


def macro_f1(problem: FitProblem, weights: FeatureWeights, k: int) -> float:
    """Macro F by the metrics' own code: candidates are named by their places."""
    rows = np.tile(list(weights.as_dict().values()), (len(problem.num_gold), 1))
    scores = fuse(problem.offsets, problem.features, min_deviations(), rows)
    lists, gold = [], []
    for document, first in enumerate(problem.offsets[:-1]):
        last = problem.offsets[document + 1]
        order = first + np.argsort(-scores[first:last], kind="stable")
        lists.append([f"c{place}" for place in order])
        named = [f"c{place}" for place in np.arange(first, last)[problem.is_gold[first:last]]]
        unseen = [f"x{i}" for i in range(problem.num_gold[document] - len(named))]
        gold.append(GoldDocument.of(named + unseen, "other"))
    return score(lists, gold, k).macro()["f1"]


def test_features_are_standardised_within_each_document() -> None:
    problem = problem_of(3)
    features = problem.features.copy()
    features[1] = 0.1 + 0.2
    at_least = np.zeros(len(features))
    at_least[2] = 50.0
    values = standardise(problem.offsets, features, at_least)
    assert not values[1].any()
    for first, last in zip(problem.offsets[:-1], problem.offsets[1:], strict=True):
        part = features[:, first:last]
        expected = (part[0] - part[0].mean()) / part[0].std()
        np.testing.assert_allclose(values[0, first:last], expected)
        # What spreads less than its least deviation counts less.
        np.testing.assert_allclose(values[2, first:last], (part[2] - part[2].mean()) / 50.0)


def test_a_document_of_one_candidate_has_zeros() -> None:
    assert not standardise(np.array([0, 1, 1]), np.full((2, 1), 3.0), np.zeros(2)).any()


def test_weights_that_explain_the_gold_are_found() -> None:
    problem = problem_of(200)
    result = fit_weights(problem, START, [3, 5])
    assert result.ridge is not None
    assert result.num_documents == 200
    assert result.after > result.before + 0.1
    assert abs(result.weights.att) > 3 * abs(result.weights.tfidf)
    before = np.mean([macro_f1(problem, START, k) for k in (3, 5)])
    assert result.before == pytest.approx(before)
    # Documents that neither the weights nor λ have seen.
    unseen = problem_of(200, seed=1)
    gained = macro_f1(unseen, result.weights, 3) - macro_f1(unseen, START, 3)
    assert gained > 0.1


def test_signs_hold_and_features_that_the_start_leaves_out_stay_out() -> None:
    problem = problem_of(100)
    rows = dict(zip(FEATURE_NAMES, problem.features, strict=True))
    # The gold wants more words, and a feature that START does not have.
    features = np.array([-rows["nw"] if n == "nw" else rows[n] for n in FEATURE_NAMES])
    features[FEATURE_NAMES.index("tr10")] = problem.is_gold
    result = fit_weights(dataclasses.replace(problem, features=features), START, [5])
    weights = result.weights.as_dict()
    assert weights["tr10"] == weights["nw1"] == weights["trsub"] == 0.0
    assert all(weights[name] * SIGNS[name] >= 0.0 for name in FEATURE_NAMES)
    assert weights["nw"] == 0.0
    assert weights["att"] > 0.0


def test_weights_keep_the_size_of_the_start() -> None:
    weights = fit_weights(problem_of(60), START, [5]).weights
    total = sum(map(abs, START.as_dict().values()))
    assert sum(map(abs, weights.as_dict().values())) == pytest.approx(total, abs=0.01)


def test_a_start_that_nothing_beats_is_left() -> None:
    best = FeatureWeights(**TRUTH)
    result = fit_weights(problem_of(30, noise=0.0), best, [3])
    assert result.ridge is None
    assert result.weights == best
    assert result.before == result.after == pytest.approx(6 / 7)


def test_the_same_problem_gives_the_same_weights() -> None:
    problem = problem_of(40)
    assert fit_weights(problem, START, [5], seed=3) == fit_weights(problem, START, [5], seed=3)


def test_documents_count_by_their_weight() -> None:
    first, second = problem_of(40), problem_of(40, seed=2)
    turned = second.features.copy()
    turned[FEATURE_NAMES.index("att")] *= -1
    both = FitProblem(
        np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]]),
        np.concatenate([first.features, turned], axis=1),
        np.concatenate([first.is_gold, second.is_gold]),
        np.concatenate([first.num_gold, second.num_gold]),
        np.concatenate([np.ones(40), np.full(40, 1e-6)]),
    )
    alone, weighed = fit_weights(first, START, [5]), fit_weights(both, START, [5])
    assert weighed.before == pytest.approx(alone.before, abs=1e-4)
    assert weighed.weights.att > 3 * weighed.weights.tfidf


def test_too_few_documents_are_refused() -> None:
    problem = problem_of(MIN_DOCUMENTS)
    assert fit_weights(problem, START, [5]).num_documents == MIN_DOCUMENTS
    few = dataclasses.replace(problem, is_gold=problem.is_gold.copy())
    few.is_gold[: problem.offsets[1]] = False
    with pytest.raises(ValueError, match=f"need {MIN_DOCUMENTS} documents .*, not 9"):
        fit_weights(few, START, [5])
