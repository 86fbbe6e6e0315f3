"""What a run has come to, from its manifest: a short table, and the same for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lexbeam.pipeline.tables import definition_list, table

SUMMARY_VERSION = 1
_CLASSES_SHOWN = 8
_KINDS = ("new", "changed", "unchanged", "removed")


def summary_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The same for machines, as in summary.json: see the data model."""
    totals, model = manifest["totals"], manifest["corpus_model"]
    read = totals["documents_in"]
    documents: dict[str, Any] = {"in": read, "rejected": totals["documents_rejected"]}
    for state in ("out", "counted"):
        if f"documents_{state}" in totals:
            documents[state] = totals[f"documents_{state}"]
    documents["by_language"] = totals.get("documents_by_language", {})
    documents["by_reason"] = totals["rejected_by_reason"]
    if "documents_by_label" in totals:
        documents["by_label"] = totals["documents_by_label"]
    return {
        "summary_version": SUMMARY_VERSION,
        **{name: manifest[name] for name in ("run_id", "command", "created", "finished")},
        "documents": documents,
        "compared": totals.get("compared"),
        "reused": totals.get("reused"),
        "terms": model["num_terms"],
        "topics": model["num_topics"],
        "coherence_npmi": model.get("coherence_npmi"),
        "drift": _drift(model),
        "model": manifest["model"] and manifest["model"]["name"],
        "model_tokens": totals.get("model_tokens"),
        "padding_ratio": totals.get("padding_ratio"),
        "stages": [
            entry | {"documents_per_second": _rate(read, entry["seconds"])}
            for entry in manifest["stages"]
        ],
    }


def _drift(model: Mapping[str, Any]) -> dict[str, Any] | None:
    if "drift_mean" not in model:
        return None
    return {name: model[f"drift_{name}"] for name in ("mean", "max", "max_topic")}


def _rate(documents: int, seconds: float) -> float | None:
    return round(documents / seconds, 1) if seconds > 0 else None


def summary_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Documents, rejected, terms, topics, padding, and a line for each stage."""
    totals = manifest["totals"]
    pairs = [("run", f"{manifest['run_id']} ({manifest['command']})")]
    pairs.append(("documents", _documents(totals)))
    pairs.append(("rejected", _rejected(totals)))
    if "compared" in totals:
        pairs.append(("compared", _compared(totals)))
        pairs.append(("reused", _reused(totals["reused"])))
    pairs.append(("terms", _terms(manifest)))
    pairs.append(("topics", _topics(manifest)))
    if totals.get("model_tokens") is not None:
        pairs.append(("model", _model(manifest)))
        pairs.append(("model tokens", f"{totals['model_tokens']:,}"))
        if totals["padding_ratio"] is not None:
            pairs.append(("padding ratio", f"{totals['padding_ratio']:.3f}"))
    if "documents_by_label" in totals:
        pairs.append(("classes", _classes(totals["documents_by_label"])))
    lines = ["", *definition_list(pairs), ""]
    return lines + _stage_table(manifest) + [""]


def _documents(totals: Mapping[str, Any]) -> str:
    languages = totals.get("documents_by_language", {})
    by_language = ", ".join(f"{name} {count:,}" for name, count in languages.items())
    number = totals.get("documents_out", totals.get("documents_counted", 0))
    return f"{number:,}" + (f" ({by_language})" if by_language else "")


def _rejected(totals: Mapping[str, Any]) -> str:
    reasons = totals["rejected_by_reason"]
    by_reason = ", ".join(f"{name} {count:,}" for name, count in reasons.items())
    return f"{totals['documents_rejected']:,}" + (f" ({by_reason})" if by_reason else "")


def _compared(totals: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{kind} {totals['compared'][kind]:,}" for kind in _KINDS)
    return f"{kinds}, beside run {totals['reused']['run_id']}"


def _reused(reused: Mapping[str, Any]) -> str:
    kinds = [name for name in ("tokens", "embeddings") if name in reused]
    return ", ".join(f"{name} of {reused[name]:,} documents" for name in kinds)


def _terms(manifest: Mapping[str, Any]) -> str:
    model, asked = manifest["corpus_model"], manifest["config"]["counts"]
    text = f"{model['num_terms']:,}"
    if model["limits"] != asked:
        text += (
            f" (min_df {asked['min_df']} and max_df {asked['max_df']} left none: "
            f"{model['limits']['min_df']} and {model['limits']['max_df']} were used)"
        )
    return text


def _topics(manifest: Mapping[str, Any]) -> str:
    if "lda" not in manifest["config"]["features"]:
        return "off"
    model = manifest["corpus_model"]
    found, asked = model["num_topics"], manifest["config"]["lda"]["num_topics"]
    if found == 0:
        return "none: fewer than two documents, or no terms"
    text = f"{found}"
    if found < asked:
        text += f" ({asked} were asked for; no more than documents)"
    if model.get("drift_mean") is not None:
        text += (
            f", drift {model['drift_mean']:.2f} (most: topic {model['drift_max_topic']}, "
            f"{model['drift_max']:.2f})"
        )
    if model.get("coherence_npmi") is not None:
        text += f", coherence (NPMI) {model['coherence_npmi']:.3f}"
        text += f", diversity {model['topic_diversity']:.2f}"
    return text


def _model(manifest: Mapping[str, Any]) -> str:
    encoder = manifest["config"]["encoder"]
    return f"{manifest['model']['name']}, {encoder['backend']} {encoder['dtype']}"


def _classes(counts: Mapping[str, int]) -> str:
    """The largest classes, and how many there are."""
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{label} {count:,}" for label, count in largest[:_CLASSES_SHOWN])
    rest = len(largest) - _CLASSES_SHOWN
    return shown + (f" and {rest:,} others" if rest > 0 else "")


def _stage_table(manifest: Mapping[str, Any]) -> list[str]:
    read = manifest["totals"]["documents_in"]
    seconds = [(entry["stage"], entry["seconds"]) for entry in manifest["stages"]]
    seconds.append(("all", sum(value for _, value in seconds)))
    rows = [
        [stage, f"{value:.1f}", f"{read / value:,.0f}" if value > 0 else "-"]
        for stage, value in seconds
    ]
    return table(rows, header=["stage", "seconds", "documents/s"], right=(1, 2))
