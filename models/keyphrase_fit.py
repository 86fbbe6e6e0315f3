"""Fits the weights of the fused keywords to gold keyphrases, under the signs of the features.

A conditional logit: of the candidates of a document, the model gives candidate c the probability
exp(w·x_c) / Σ exp(w·x), x its features standardised within the document; the weights maximise the
mean log-probability of the gold candidates, every document counting once. Two things keep the
weights of a few documents from running away:

- **signs**: no weight may change the sign that its feature has by its meaning
  (`keyphrase_weights.SIGNS`): a free fit to abstracts collapses on long papers;
- **a ridge** λ|w - s·w₀|² towards the weights it starts from, w₀, at the scale s that fits best.
  λ is chosen by cross-validation on F at k, and the start itself is among the choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lexbeam.models.counts import row_offsets
from lexbeam.models.keyphrase_candidates import Candidates
from lexbeam.models.keyphrase_kernels import standardise
from lexbeam.models.keyphrase_metrics import GoldDocument, normal_form
from lexbeam.models.keyphrase_weights import FEATURE_NAMES, SIGNS, FeatureWeights
from lexbeam.models.keyphrases import min_deviations

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

RIDGES = (0.001, 0.01, 0.1, 1.0)
NUM_FOLDS = 5
MIN_DOCUMENTS = 2 * NUM_FOLDS


@dataclass(frozen=True)
class FitProblem:
    """Documents to fit to: their candidates, features and gold.

    Attributes:
        offsets: (num_documents + 1,) where each document's candidates begin and end.
        features: (num_features, num_candidates) as `keyphrases.candidate_features` has them.
        is_gold: (num_candidates,) whether the candidate is a gold phrase.
        num_gold: (num_documents,) gold phrases, those that are no candidates included; a document
            without any is left out.
        weights: (num_documents,) how much each counts.
    """

    offsets: Int64Array
    features: Float64Array
    is_gold: BoolArray
    num_gold: Int64Array
    weights: Float64Array

    @property
    def num_documents(self) -> int:
        """Documents that have gold phrases."""
        return int((self.num_gold > 0).sum())

    @property
    def documents(self) -> Int64Array:
        """(num_candidates,) document of each candidate."""
        lengths = np.diff(self.offsets)
        return np.repeat(np.arange(len(lengths)), lengths)


def make_problem(
    found: Candidates, contents: Sequence[str], features: Float64Array, gold: Sequence[GoldDocument]
) -> FitProblem:
    """The problem of a block of documents, each of which counts once.

    Args:
        found: their candidates.
        contents: their texts.
        features: (num_features, num_candidates) of `keyphrases.candidate_features`.
        gold: their gold phrases.
    """
    rows = zip(
        found.documents.tolist(),
        found.starts[found.leads].tolist(),
        found.ends[found.leads].tolist(),
        strict=True,
    )
    is_gold = [
        normal_form(contents[row][start:end], gold[row].language) in gold[row].gold
        for row, start, end in rows
    ]
    return FitProblem(
        offsets=row_offsets(np.bincount(found.documents, minlength=len(gold))),
        features=features,
        is_gold=np.array(is_gold, np.bool_),
        num_gold=np.array([len(document.gold) for document in gold], np.int64),
        weights=np.ones(len(gold)),
    )


def join_problems(problems: Sequence[FitProblem]) -> FitProblem:
    """Several problems as one; none may be missing."""
    lengths = [np.diff(problem.offsets) for problem in problems]
    return FitProblem(
        offsets=row_offsets(np.concatenate(lengths)),
        features=np.concatenate([problem.features for problem in problems], axis=1),
        is_gold=np.concatenate([problem.is_gold for problem in problems]),
        num_gold=np.concatenate([problem.num_gold for problem in problems]),
        weights=np.concatenate([problem.weights for problem in problems]),
    )


@dataclass(frozen=True)
class FitResult:
    """Fitted weights, and what they are worth on documents that they were not fitted to.

    Attributes:
        weights: fitted to all documents.
        ridge: λ that was chosen; None where the start was as good.
        before: macro F of the start.
        after: macro F of weights fitted without each document's fold.
        num_documents: that have gold phrases.
    """

    weights: FeatureWeights
    ridge: float | None
    before: float
    after: float
    num_documents: int


def fit_weights(
    problem: FitProblem, start: FeatureWeights, ks: Sequence[int], seed: int = 0
) -> FitResult:
    """Fit the weights of one language.

    Args:
        problem: the documents.
        start: the weights that the ridge holds on to, and whose zeros stay out of the model.
        ks: F is the mean over F at each of these.
        seed: of the folds.

    Raises:
        ValueError: fewer than `MIN_DOCUMENTS` documents have gold phrases among their candidates.
    """
    data = _Data.of(problem)
    usable = np.flatnonzero(data.has_gold)
    if len(usable) < MIN_DOCUMENTS:
        raise ValueError(
            f"need {MIN_DOCUMENTS} documents with gold phrases among their candidates, "
            f"not {len(usable)}"
        )
    origin = np.array(list(start.as_dict().values()))
    folds = np.random.default_rng(seed).permutation(len(problem.num_gold)) % NUM_FOLDS
    before = data.mean_f1(np.tile(origin, (NUM_FOLDS, 1)), folds, ks)
    held_out = {
        ridge: data.mean_f1(
            np.array([data.fit(folds != fold, origin, ridge) for fold in range(NUM_FOLDS)]),
            folds,
            ks,
        )
        for ridge in RIDGES
    }
    # Of equal ones the one that stays nearer to the start.
    best = max(held_out, key=lambda ridge: (held_out[ridge], ridge))
    if held_out[best] <= before:
        return FitResult(start, None, before, before, problem.num_documents)
    fitted = _at_scale_of(data.fit(data.has_gold, origin, best), origin)
    weights = dict(zip(FEATURE_NAMES, fitted.tolist(), strict=True))
    return FitResult(FeatureWeights(**weights), best, before, held_out[best], problem.num_documents)


def _at_scale_of(weights: Float64Array, origin: Float64Array) -> Float64Array:
    """Rounded, with the sum of absolute values of the start; the order of phrases stays."""
    scale = np.abs(origin).sum() / max(np.abs(weights).sum(), 1e-12)
    rounded: Float64Array = np.round(weights * scale, 3) + 0.0
    return rounded


@dataclass(frozen=True)
class _Data:
    """A problem with standardised features."""

    problem: FitProblem
    documents: Int64Array
    values: Float64Array
    gold_shares: Float64Array
    has_gold: BoolArray

    @classmethod
    def of(cls, problem: FitProblem) -> _Data:
        documents = problem.documents
        num_documents = len(problem.num_gold)
        found = np.bincount(documents, weights=problem.is_gold, minlength=num_documents)
        shares = problem.is_gold / np.maximum(found, 1.0)[documents]
        values = standardise(problem.offsets, problem.features, min_deviations())
        return cls(problem, documents, values, shares, found > 0)

    def fit(self, chosen: BoolArray, origin: Float64Array, ridge: float) -> Float64Array:
        """Weights fitted to the chosen documents."""
        from scipy.optimize import minimize

        signs = np.array([SIGNS[name] for name in FEATURE_NAMES])
        used = (chosen & self.has_gold)[self.documents]
        rows = np.flatnonzero(used)
        values, shares = self.values[:, rows], self.gold_shares[rows]
        documents, groups = np.unique(self.documents[rows], return_inverse=True)
        importance = self.problem.weights[documents]
        importance = importance / importance.sum()
        first = np.searchsorted(groups, np.arange(len(documents)))

        def loss(weights: Float64Array, centre: Float64Array) -> tuple[float, Float64Array]:
            scores = weights @ values
            scores = scores - np.maximum.reduceat(scores, first)[groups]
            exponentials = np.exp(scores)
            sums = np.add.reduceat(exponentials, first)
            logs = np.add.reduceat(shares * (scores - np.log(sums)[groups]), first)
            slopes = importance[groups] * (exponentials / sums[groups] - shares)
            away = weights - centre
            value = -(importance * logs).sum() + ridge * (away**2).sum()
            return float(value), values @ slopes + 2 * ridge * away

        def scaled(scale: Float64Array) -> tuple[float, Float64Array]:
            value, slope = loss(scale[0] * origin, scale[0] * origin)
            return value, np.array([slope @ origin])

        centre = minimize(scaled, [1.0], jac=True, bounds=[(0.0, None)]).x[0] * origin
        bounds = [
            (0.0, 0.0) if start == 0.0 else (0.0, None) if sign > 0 else (None, 0.0)
            for start, sign in zip(origin, signs, strict=True)
        ]
        found = minimize(loss, centre, args=(centre,), jac=True, bounds=bounds)
        return np.asarray(found.x, dtype=np.float64)

    def mean_f1(self, weights: Float64Array, folds: Int64Array, ks: Sequence[int]) -> float:
        """Macro F of each document under the weights of its fold."""
        scores = np.einsum("fc,cf->c", self.values, weights[folds[self.documents]])
        order = np.lexsort((np.arange(len(scores)), -scores, self.documents))
        places = np.arange(len(scores)) - self.problem.offsets[self.documents]
        counted = self.problem.num_gold > 0
        importance = self.problem.weights[counted]
        totals = []
        for k in ks:
            top = order[places < k]
            size = len(self.problem.num_gold)
            predicted = np.bincount(self.documents[top], minlength=size)
            hits = np.bincount(
                self.documents[top], weights=self.problem.is_gold[top], minlength=size
            )
            f1 = 2.0 * hits[counted] / (predicted + self.problem.num_gold)[counted]
            totals.append(float(np.average(f1, weights=importance)))
        return float(np.mean(totals))
