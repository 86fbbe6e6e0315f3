"""The tables of `lexbeam evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lexbeam.models.keyphrase_fit import FitResult
from lexbeam.pipeline.evaluation_fit import FittedWeights
from lexbeam.pipeline.tables import count_of, printable, table

_LANGUAGES = {"zh": "Chinese", "en": "English", "other": "other languages"}
_HEADER = ("", "P", "R", "F", "micro F", "present F", "fused better by")
_LABELS = {
    "keywords": "fused (keywords)",
    "keywords_bert": "received attention (keywords_bert)",
    "keywords_lda": "topics (keywords_lda)",
    "keywords_textrank": "TextRank (keywords_textrank)",
    "keywords_tfidf": "TF-IDF (keywords_tfidf)",
}


def evaluation_lines(report: Mapping[str, Any]) -> list[str]:
    """A table for each gold set, language and k, all figures in percent; then the topics."""
    lines = [f"run {report['run_id']}"]
    if report["options"]["diversity"]:
        lines.append("near-duplicates and sub-phrases are left out of every list")
    lines.append("")
    for section in report["sections"]:
        lines += _section_lines(section)
    if report["topics"]:
        lines += [_topic_line(report["topics"]), ""]
    return lines


def _section_lines(section: Mapping[str, Any]) -> list[str]:
    gold = count_of(section["gold_keyphrases"], "gold keyphrase")
    documents = count_of(section["documents"], "document")
    lines = [
        f"{printable(section['gold'])} · {_LANGUAGES[section['language']]} · {documents}, {gold}"
        + _present_share(section)
    ]
    if section["not_in_run"]:
        lines.append(f"{count_of(section['not_in_run'], 'id')} of this file not in the run")
    if section["note"]:
        lines.append(
            f"no baselines, and nothing for present keyphrases: {printable(section['note'])}"
        )
    for k in section["rows"][0]["at"]:
        rows = [_cells(row["name"], row["at"][k]) for row in section["rows"]]
        header = [f"at {k}", *_HEADER[1:]]
        lines += ["", *table(rows, header=header, right=range(1, 6))]
    return [*lines, ""]


def _present_share(section: Mapping[str, Any]) -> str:
    if section["present_keyphrases"] is None:
        return ""
    return f", {section['present_keyphrases'] / section['gold_keyphrases']:.0%} of them in the text"


def _cells(name: str, at: Mapping[str, Any]) -> list[str]:
    macro, micro = at["all"]["macro"], at["all"]["micro"]
    present = f"{100 * at['present']['macro']['f1']:.1f}" if "present" in at else "–"
    figures = [f"{100 * macro[key]:.1f}" for key in ("precision", "recall", "f1")]
    return [
        _LABELS.get(name, name), *figures, f"{100 * micro['f1']:.1f}", present, _difference(at)
    ]  # fmt: skip


def _difference(at: Mapping[str, Any]) -> str:
    better = at.get("fused_better_by")
    if better is None:
        return ""
    low, high = 100 * better["low"], 100 * better["high"]
    return f"{100 * better['mean']:+.1f} [{low:+.1f}, {high:+.1f}]"


def _topic_line(topics: Mapping[str, Any]) -> str:
    line = count_of(topics["num_topics"], "topic")
    if topics["coherence_npmi"] is not None:
        line += f": coherence (NPMI) {topics['coherence_npmi']:.3f}"
        line += f", diversity {topics['topic_diversity']:.2f}"
    return line


def fit_json(fitted: FittedWeights) -> dict[str, Any]:
    """What a fit found, for the report's JSON."""
    return {
        "weights": fitted.weights.as_dict(),
        "fitted": {
            name: {
                "documents": result.num_documents,
                "ridge": result.ridge,
                "f1_before": result.before,
                "f1_after": result.after,
            }
            for name, result in fitted.results.items()
        },
        "notes": list(fitted.notes),
    }


def fit_lines(fitted: FittedWeights) -> list[str]:
    """What a fit found: F in percent before and, cross-validated, after."""
    rows = [_fit_cells(name, result) for name, result in fitted.results.items()]
    header = ["weights", "documents", "F before", "F after", "ridge", "fitted"]
    lines = table(rows, header=header, right=range(1, 5))
    return [*lines, *(f"not fitted: {printable(note)}" for note in fitted.notes), ""]


def _fit_cells(name: str, result: FitResult) -> list[str]:
    weights = ", ".join(
        f"{feature} {value:g}" for feature, value in result.weights.as_dict().items() if value
    )
    ridge = "–" if result.ridge is None else f"{result.ridge:g}"
    before, after = f"{100 * result.before:.1f}", f"{100 * result.after:.1f}"
    return [name, f"{result.num_documents:,}", before, after, ridge, weights]
