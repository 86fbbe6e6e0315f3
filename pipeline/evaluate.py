"""`lexbeam evaluate`: a run's keyword columns against gold keyphrases, as JSON-able values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lexbeam.models.config import LANGUAGES
from lexbeam.models.keyphrase_baselines import first_phrases, jieba_keywords
from lexbeam.models.keyphrase_diversity import diverse_places
from lexbeam.models.keyphrase_metrics import (
    GoldDocument,
    KeyphraseScores,
    paired_bootstrap,
    score,
)
from lexbeam.models.schemas import KEYWORD_COLUMNS
from lexbeam.models.tokens import Tokenizer
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.evaluation_documents import (
    RunDocument,
    documents_with_gold,
    first_id,
    run_tokenizer,
    tokenized,
    with_contents,
)
from lexbeam.pipeline.gold import GoldSet
from lexbeam.pipeline.plan import Plan, read_plan
from lexbeam.pipeline.runs import RunDir, read_json

FUSED = "keywords"
FIRST_PHRASES = "first phrases"
JIEBA = {"jieba TF-IDF": "tfidf", "jieba TextRank": "textrank"}
_BLOCK = 1_024

Lists = Mapping[str, list[list[str]]]


@dataclass(frozen=True)
class EvaluationOptions:
    """How to score.

    Attributes:
        ks: list lengths.
        diversity: leave near-duplicates out of every list (`keyphrase_diversity`).
        samples: of the paired bootstrap.
        seed: of the bootstrap, and of the folds of a fit.
    """

    ks: tuple[int, ...] = (5, 10)
    diversity: bool = False
    samples: int = 2_000
    seed: int = 0


@dataclass(frozen=True)
class Matched:
    """The documents of a run that a gold set has keyphrases for.

    Attributes:
        gold: the gold set.
        documents: those with at least one gold keyphrase, in the run's order.
        not_in_run: ids with keyphrases that the run has no document for.
        note: why contents are missing, if they are.
    """

    gold: GoldSet
    documents: list[RunDocument]
    not_in_run: int
    note: str | None

    def of_language(self, language: str) -> list[RunDocument]:
        """The documents of one language."""
        return [document for document in self.documents if document.language == language]

    def gold_documents(self, documents: Sequence[RunDocument]) -> list[GoldDocument]:
        """Normal forms of the documents' gold."""
        return [
            GoldDocument.of(self.gold.keywords[d.doc_id], d.language, d.content) for d in documents
        ]


def match(run: RunDir, plan: Plan, gold: GoldSet) -> Matched:
    """Find the gold set's documents in the run; raises UsageError where there is none."""
    ids = {doc_id for doc_id, keywords in gold.keywords.items() if keywords}
    documents, note = with_contents(documents_with_gold(run, ids), plan)
    if not documents:
        known = first_id(run)
        raise UsageError(
            f"--gold {gold.name}: none of its {len(ids):,} ids, as {min(ids)!r}, is in run "
            f"{run.run_id}" + ("" if known is None else f", whose ids are as {known!r}")
        )
    return Matched(gold, documents, len(ids) - len({d.doc_id for d in documents}), note)


def evaluate(
    run: RunDir, plan: Plan, matched: Sequence[Matched], options: EvaluationOptions
) -> dict[str, Any]:
    """Score every keyword column of the run, and the baselines, on each gold set and language.

    Args:
        run: with documents.
        plan: of the run.
        matched: gold sets.
        options: how to score.

    Returns:
        JSON-able: `run_id`, `options`, `sections` (a list, for each gold set and language) and
        `topics`.

    Raises:
        UsageError: the run's corpus model is not there any more.
    """
    tokenizer = run_tokenizer(run, plan)
    return {
        "run_id": run.run_id,
        "options": {
            "k": list(options.ks),
            "diversity": options.diversity,
            "samples": options.samples,
            "seed": options.seed,
        },
        "sections": [
            _section(entry, language, tokenizer, options)
            for entry in matched
            for language in LANGUAGES
            if entry.of_language(language)
        ],
        "topics": _topics(read_json(run.manifest)),
    }


def load(run: RunDir, ks: Sequence[int]) -> Plan:
    """The plan of a run that can be evaluated.

    Raises:
        UsageError: the run is unfinished, has no documents, or its lists are shorter than some k.
    """
    if not run.is_complete():
        raise UsageError(f"run {run.run_id} is not finished: run the same command again to resume")
    plan = read_plan(run)
    if plan.command == "fit":
        raise UsageError(f"run {run.run_id} has no documents: it is a fit")
    if max(ks) > plan.config.top_k:
        raise UsageError(
            f"--k {max(ks)}: the lists of run {run.run_id} have {plan.config.top_k} keywords "
            "(--top_k of the run)"
        )
    return plan


def _section(
    matched: Matched, language: str, tokenizer: Tokenizer, options: EvaluationOptions
) -> dict[str, Any]:
    documents = matched.of_language(language)
    gold = matched.gold_documents(documents)
    has_contents = all(document.content is not None for document in documents)
    columns = _columns(documents)
    baselines = _baselines(documents, language, tokenizer, options) if has_contents else {}
    lists = {**columns, **baselines}
    if options.diversity:
        lists = {name: _diverse(found, language) for name, found in lists.items()}
    return {
        "gold": matched.gold.name,
        "language": language,
        "documents": len(documents),
        "not_in_run": matched.not_in_run,
        "gold_keyphrases": sum(len(entry.gold) for entry in gold),
        "present_keyphrases": _num_present(gold) if has_contents else None,
        "note": matched.note,
        "rows": [
            score_row(name, lists, gold, options, kind="column" if name in columns else "baseline")
            for name in lists
        ],
    }


def _num_present(gold: Sequence[GoldDocument]) -> int:
    return sum(len(entry.present or ()) for entry in gold)


def _columns(documents: Sequence[RunDocument]) -> dict[str, list[list[str]]]:
    """The run's keyword columns, the fused one first."""
    return {
        name: [list(document.keywords.get(name, ())) for document in documents]
        for name in reversed(KEYWORD_COLUMNS)
        if any(name in document.keywords for document in documents)
    }


def _baselines(
    documents: Sequence[RunDocument],
    language: str,
    tokenizer: Tokenizer,
    options: EvaluationOptions,
) -> dict[str, list[list[str]]]:
    # Of lists that are filtered for display a reserve, as the run's have.
    length = max(options.ks) * (2 if options.diversity else 1)
    found: dict[str, list[list[str]]] = {FIRST_PHRASES: []}
    for block in _blocks(documents):
        found[FIRST_PHRASES] += first_phrases(tokenized(block, tokenizer), length)
    if language == "zh":
        contents = [document.content or "" for document in documents]
        for name, method in JIEBA.items():
            found[name] = jieba_keywords(contents, method, length)
    return found


def _blocks(documents: Sequence[RunDocument]) -> Iterator[Sequence[RunDocument]]:
    for start in range(0, len(documents), _BLOCK):
        yield documents[start : start + _BLOCK]


def _diverse(lists: Sequence[Sequence[str]], language: str) -> list[list[str]]:
    return [[phrases[i] for i in diverse_places(phrases, language)] for phrases in lists]


def score_row(
    name: str, lists: Lists, gold: Sequence[GoldDocument], options: EvaluationOptions, kind: str
) -> dict[str, Any]:
    """Scores of one of the lists at every k, and how much better the fused keywords are.

    Args:
        name: of the list; `keywords` is the fused one.
        lists: phrases of every document, best first, by name.
        gold: of the same documents; present phrases are scored where they are known.
        options: ks and bootstrap.
        kind: what sort of list it is.

    Returns:
        JSON-able: `name`, `kind`, and `at`: for each k `all`, `present` and `fused_better_by`.
    """
    at: dict[str, Any] = {}
    for k in options.ks:
        scores = score(lists[name], gold, k)
        values: dict[str, Any] = {"all": _averages(scores)}
        if all(document.present is not None for document in gold):
            values["present"] = _averages(score(lists[name], gold, k, present_only=True))
        if name != FUSED and FUSED in lists:
            fused = score(lists[FUSED], gold, k)
            better = paired_bootstrap(fused.f1, scores.f1, options.samples, options.seed)
            values["fused_better_by"] = asdict(better)
        at[str(k)] = values
    return {"name": name, "kind": kind, "at": at}


def _averages(scores: KeyphraseScores) -> dict[str, Any]:
    return {"macro": scores.macro(), "micro": scores.micro(), "documents": len(scores.rows)}


def _topics(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Coherence and diversity of the run's topics; None without an LDA."""
    model = manifest["corpus_model"]
    if not model.get("num_topics"):
        return None
    names = ("num_topics", "coherence_npmi", "topic_diversity")
    return {name: model.get(name) for name in names}
