"""`lexbeam inspect`: a readable summary of a run, or of one document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lexbeam.models.schemas import KEYWORD_COLUMNS
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.runs import RunDir, find_run, read_json
from lexbeam.pipeline.summary import summary_lines
from lexbeam.pipeline.tables import definition_list, printable, shorten, table

_DOCUMENTS_SHOWN = 6
_TOPICS_SHOWN = 12
_TERMS_OF_TOPIC = 8
_KEYWORDS_SHOWN = 8
_LABELS = {"keywords": "fused"}


def run_lines(run: RunDir, *, diverse: bool = False) -> list[str]:
    """Summary, topics and a few documents; raises UsageError where the run is unfinished.

    diverse: leave near-duplicates out of the keyword lists.
    """
    if not run.is_complete():
        raise UsageError(f"run {run.run_id} is not finished: run the same command again to resume")
    manifest = read_json(run.manifest)
    lines = summary_lines(manifest)
    lines += _topic_lines(run, manifest)
    if manifest["command"] != "fit":
        lines += _document_lines(run, diverse=diverse)
    return lines


def topic_terms(run: RunDir, manifest: Mapping[str, Any]) -> dict[int, list[str]]:
    """Terms of each topic, heaviest first; of a transform those of the model it used."""
    from lexbeam.transforms.part_files import read_part

    topics: dict[int, list[str]] = {}
    for part in _fitted_run(run, manifest).parts("topics"):
        for row in read_part(part, ["topic", "term"]).to_pylist():
            topics.setdefault(row["topic"], []).append(row["term"])
    return topics


def _fitted_run(run: RunDir, manifest: Mapping[str, Any]) -> RunDir:
    """The run that fitted the corpus models; the run itself where that one is gone."""
    if manifest["model_source"] is None:
        return run
    try:
        return find_run(manifest["model_source"].rpartition("/")[0])
    except UsageError:
        return run


def _topic_lines(run: RunDir, manifest: Mapping[str, Any]) -> list[str]:
    topics = topic_terms(run, manifest)
    rows = [
        [str(topic), shorten("  ".join(terms[:_TERMS_OF_TOPIC]), 90)]
        for topic, terms in list(topics.items())[:_TOPICS_SHOWN]
    ]
    if not rows:
        return []
    more = len(topics) - len(rows)
    return [*table(rows, header=["topic", "terms"], right=(0,)), *_more(more, "topic"), ""]


def _more(number: int, noun: str) -> list[str]:
    return [f"and {number:,} more {noun}{'' if number == 1 else 's'}"] if number > 0 else []


def _documents(run: RunDir, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    from lexbeam.transforms.part_files import open_part

    for path in run.parts("documents"):
        with open_part(path) as part:
            for batch in part.iter_batches(256, columns=list(columns)):
                yield from batch.to_pylist()


def _document_lines(run: RunDir, *, diverse: bool) -> list[str]:
    """A few documents, taken evenly from the whole run."""
    from lexbeam.transforms.part_files import num_rows

    total = sum(num_rows(path) for path in run.parts("documents"))
    shown = {total * i // _DOCUMENTS_SHOWN for i in range(_DOCUMENTS_SHOWN)}
    columns = ("doc_id", "language", "title", *KEYWORD_COLUMNS)
    found = (row for index, row in enumerate(_documents(run, columns)) if index in shown)
    rows = [
        [shorten(row["doc_id"], 18), row["language"], shorten(row["title"] or "", 34), _best(row)]
        for row in (map(_without_near_duplicates, found) if diverse else found)
    ]
    if not rows:
        return []
    return table(rows, header=["document", "lang", "title", "keywords"])


def _best(row: Mapping[str, Any]) -> str:
    """The fused keywords, or the first list that the run has."""
    for column in ("keywords", *KEYWORD_COLUMNS):
        if row[column] is not None:
            return shorten(_terms(row[column], 6), 72)
    return ""


def _without_near_duplicates(row: dict[str, Any]) -> dict[str, Any]:
    """The document with `keyphrase_diversity.diverse_places` of its keyword lists."""
    from lexbeam.models.keyphrase_diversity import diverse_places

    shown = dict(row)
    for column in KEYWORD_COLUMNS:
        if row[column] is not None:
            places = diverse_places([entry["term"] for entry in row[column]], row["language"])
            shown[column] = [row[column][place] for place in places]
    return shown


def _terms(keywords: Sequence[Mapping[str, Any]], number: int) -> str:
    return " · ".join(printable(keyword["term"]) for keyword in keywords[:number])


def document_lines(run: RunDir, doc_id: str, *, diverse: bool = False) -> list[str]:
    """All that the run says of one document; raises UsageError where it has none of that id.

    diverse: leave near-duplicates out of the keyword lists.
    """
    import pyarrow.compute as pc

    from lexbeam.transforms.part_files import read_part

    manifest = read_json(run.manifest)
    for path in run.parts("documents"):
        table_ = read_part(path)
        found = table_.filter(pc.equal(table_["doc_id"], doc_id))
        if found.num_rows:
            row = found.to_pylist()[0]
            row = _without_near_duplicates(row) if diverse else row
            return _one_document(row, topic_terms(run, manifest))
    for path in run.parts("errors"):
        table_ = read_part(path)
        found = table_.filter(pc.equal(table_["doc_id"], doc_id))
        if found.num_rows:
            row = found.to_pylist()[0]
            return ["rejected", *definition_list([(k, printable(str(v))) for k, v in row.items()])]
    raise UsageError(f"run {run.run_id} has no document {doc_id!r}")


def _one_document(row: Mapping[str, Any], topics: Mapping[int, list[str]]) -> list[str]:
    plain = (
        "doc_id", "source", "language", "title", "text_sha256",
        "num_chars", "num_terms", "num_tokens", "num_chunks", "truncated",
    )  # fmt: skip
    pairs = [(name, printable(str(row[name]))) for name in plain if row[name] is not None]
    if row["embedding"] is not None:
        values = ", ".join(f"{value:.3f}" for value in row["embedding"][:4])
        pairs.append(("embedding", f"{len(row['embedding'])} values: {values}, …"))
    lines = [*definition_list(pairs), ""]
    for column in reversed(KEYWORD_COLUMNS):
        if row[column] is not None:
            label = _LABELS.get(column, column.removeprefix("keywords_"))
            lines += [f"{label} keywords", *_keyword_lines(row[column]), ""]
    for topic in row["topics"] or []:
        words = "  ".join(topics.get(topic["topic"], [])[:_TERMS_OF_TOPIC])
        lines.append(shorten(f"topic {topic['topic']:>3}  {topic['weight']:.2f}  {words}", 100))
    if row.get("text"):
        lines += ["", *(printable(line) for line in row["text"].splitlines()[:40])]
    return lines


def _keyword_lines(keywords: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [[f"{k['score']:.4f}", printable(k["term"])] for k in keywords[:_KEYWORDS_SHOWN]]
    return [f"  {line}" for line in table(rows, right=(0,))] or ["  none"]
