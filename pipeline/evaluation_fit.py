"""`lexbeam evaluate --fit_weights`: the weights of the fused keywords, fitted to gold keyphrases.

The documents are tokenized and encoded again, by the run's own settings and models, since a run
does not keep the features of its candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lexbeam.models import textrank
from lexbeam.models.config import ConfigError, EncoderConfig, TextRankConfig
from lexbeam.models.encoder import Encoder, cached_encoder
from lexbeam.models.encoder_spec import ModelError, ModelSpec
from lexbeam.models.features import FeatureConfig, FeatureModels
from lexbeam.models.keyphrase_candidates import find_candidates
from lexbeam.models.keyphrase_fit import (
    FitProblem,
    FitResult,
    fit_weights,
    join_problems,
    make_problem,
)
from lexbeam.models.keyphrase_weights import FEATURE_NAMES, KeyphraseWeights
from lexbeam.models.keyphrases import candidate_features
from lexbeam.models.tokens import Tokenizer
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.evaluate import EvaluationOptions, Matched
from lexbeam.pipeline.evaluation_documents import RunDocument, run_tokenizer, tokenized
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.runs import RunDir
from lexbeam.transforms import host_cache
from lexbeam.transforms.host_models import model_on_host
from lexbeam.transforms.threads import kernel_threads

# Languages that share a set of weights, by the set's name.
SETS = {"english": ("en", "other"), "chinese": ("zh",)}
_WITHOUT_ATTENTION = "_without_attention"
_BLOCK = 512


@dataclass(frozen=True)
class FittedWeights:
    """Weights for `--keyword_weights`, and how they were found.

    Attributes:
        weights: fitted where there was gold to fit to, else those of the run.
        results: of each set of weights that was fitted, by its name.
        notes: why a set was not fitted.
    """

    weights: KeyphraseWeights
    results: Mapping[str, FitResult]
    notes: Sequence[str]


def fit_to_gold(
    run: RunDir,
    plan: Plan,
    matched: Sequence[Matched],
    options: EvaluationOptions,
    say: Callable[[str], None],
) -> FittedWeights:
    """Fit the weights of each language that has gold, with attention and without.

    Gold sets count alike, however many documents they have.

    Args:
        run: whose corpus models and settings hold.
        plan: of the run.
        matched: gold sets.
        options: ks and seed.
        say: gets a line as the work goes on.

    Raises:
        UsageError: a text is missing, or no language has enough documents.
    """
    _require_contents(matched)
    source = _FeatureSource.of(run, plan)
    start = plan.config.keyword_weights
    weights, results, notes = start, {}, []
    for name, languages in SETS.items():
        problems = []
        for entry in matched:
            documents = [d for d in entry.documents if d.language in languages]
            if documents:
                say(f"features of {len(documents):,} documents of {entry.gold.name} ({name})")
                problems.append(source.problem(entry, documents))
        if not problems:
            continue
        joined = join_problems(problems)
        for set_name, problem in _with_and_without_attention(name, joined, source.encoder):
            try:
                result = fit_weights(problem, getattr(start, set_name), options.ks, options.seed)
            except ValueError as error:
                notes.append(f"{set_name}: {error}")
                continue
            results[set_name] = result
            weights = dataclasses.replace(weights, **{set_name: result.weights})
    if not results:
        raise UsageError(f"--fit_weights: {'; '.join(notes)}")
    return FittedWeights(weights, results, notes)


def _require_contents(matched: Sequence[Matched]) -> None:
    for entry in matched:
        if entry.note is not None:
            raise UsageError(f"--fit_weights needs the texts: {entry.note}")


def _with_and_without_attention(
    name: str, problem: FitProblem, encoder: Encoder | None
) -> list[tuple[str, FitProblem]]:
    without = problem.features.copy()
    without[FEATURE_NAMES.index("att")] = 0.0
    plain = (name + _WITHOUT_ATTENTION, dataclasses.replace(problem, features=without))
    return [plain] if encoder is None else [(name, problem), plain]


def _load_encoder(spec: ModelSpec, config: EncoderConfig) -> Encoder:
    try:
        return cached_encoder(model_on_host(spec, config), config, kernel_threads())
    except (OSError, ModelError, ConfigError) as error:
        raise UsageError(f"--fit_weights needs the run's model {spec.name!r}: {error}") from error


@dataclass(frozen=True)
class _FeatureSource:
    """What computes the features of candidates as the run did."""

    plan: Plan
    tokenizer: Tokenizer
    models: FeatureModels
    encoder: Encoder | None

    @classmethod
    def of(cls, run: RunDir, plan: Plan) -> _FeatureSource:
        config = FeatureConfig(
            features=plan.config.features,
            top_k=plan.config.top_k,
            model_dir=host_cache.copy_of_corpus_model(plan.model_dir(run)),
            has_topics=False,
        )
        encoder = None
        if plan.encoder is not None:
            encoder = _load_encoder(plan.encoder, plan.config.encoder)
        return cls(plan, run_tokenizer(run, plan), FeatureModels.load(config), encoder)

    def problem(self, matched: Matched, documents: Sequence[RunDocument]) -> FitProblem:
        """The problem of one gold set's documents, which weigh 1 together."""
        blocks = [
            self._block(matched, documents[start : start + _BLOCK])
            for start in range(0, len(documents), _BLOCK)
        ]
        joined = join_problems(blocks)
        share = np.full(len(documents), 1.0 / len(documents))
        return dataclasses.replace(joined, weights=share)

    def _block(self, matched: Matched, documents: Sequence[RunDocument]) -> FitProblem:
        batch = tokenized(documents, self.tokenizer)
        contents = [document.content or "" for document in documents]
        found = find_candidates(batch)
        values = candidate_features(
            found, self.models.phrases, self._encoded(contents), self._word_scores(batch)
        ).values
        return make_problem(found, contents, values, matched.gold_documents(documents))

    def _encoded(self, contents: list[str]) -> pa.RecordBatch | None:
        return None if self.encoder is None else self.encoder.encode(contents)

    def _word_scores(self, batch: pa.RecordBatch) -> textrank.WordScores | None:
        if "textrank" not in self.plan.config.features:
            return None
        return textrank.word_scores(batch, TextRankConfig(), self.models.user_words)
