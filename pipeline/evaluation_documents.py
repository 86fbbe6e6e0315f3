"""The documents of a run that have gold keyphrases: their keywords, and their texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lexbeam.models.schemas import KEYWORD_COLUMNS
from lexbeam.models.tokens import Tokenizer
from lexbeam.pipeline import corpus_model
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.runs import RunDir
from lexbeam.transforms import host_cache, splits
from lexbeam.transforms.part_files import open_part
from lexbeam.transforms.readers import read_split
from lexbeam.transforms.sources import SourceChanged, check_unchanged

_ROWS_AT_A_TIME = 4_096


@dataclass(frozen=True)
class RunDocument:
    """A document of a run.

    Attributes:
        doc_id: its id.
        language: `zh`, `en` or `other`.
        text_sha256: of its content.
        keywords: terms by keyword column, best first; without the columns that the run lacks.
        content: title and text; None where the input is not there any more.
    """

    doc_id: str
    language: str
    text_sha256: str
    keywords: Mapping[str, Sequence[str]]
    content: str | None = field(default=None, repr=False)


def documents_with_gold(run: RunDir, ids: Collection[str]) -> list[list[RunDocument]]:
    """The documents with one of these ids, by part of the run, in order; contents where kept."""
    wanted = pa.array(sorted(ids), pa.string())
    return [list(_documents_of(path, wanted)) for path in run.parts("documents")]


def first_id(run: RunDir) -> str | None:
    """Id of the run's first document, if it has any."""
    for path in run.parts("documents"):
        with open_part(path) as part:
            for batch in part.iter_batches(1, columns=["doc_id"]):
                return str(batch["doc_id"][0].as_py())
    return None


def _documents_of(path: str, wanted: pa.StringArray) -> Iterator[RunDocument]:
    with open_part(path) as part:
        names = set(part.schema_arrow.names)
        columns = ["doc_id", "language", "text_sha256", *KEYWORD_COLUMNS]
        columns += ["text"] if "text" in names else []
        for batch in part.iter_batches(_ROWS_AT_A_TIME, columns=columns):
            for row in batch.filter(pc.is_in(batch["doc_id"], wanted)).to_pylist():
                yield _document_of(row)


def _document_of(row: Mapping[str, Any]) -> RunDocument:
    keywords = {
        name: [keyword["term"] for keyword in row[name]]
        for name in KEYWORD_COLUMNS
        if row[name] is not None
    }
    return RunDocument(
        row["doc_id"], row["language"], row["text_sha256"], keywords, row.get("text")
    )


def with_contents(
    parts: Sequence[Sequence[RunDocument]], plan: Plan
) -> tuple[list[RunDocument], str | None]:
    """All documents, with contents read from the run's input again where it did not keep them.

    Returns:
        The documents, and why contents are missing, if any are.
    """
    documents: list[RunDocument] = []
    reasons: list[str] = []
    for split, part in enumerate(parts):
        found = list(part)
        if any(document.content is None for document in found):
            try:
                found = _read_again(found, plan.layout, split)
            except (OSError, SourceChanged) as error:
                reasons.append(str(error))
        documents += found
    missing = sum(document.content is None for document in documents)
    if not missing:
        return documents, None
    why = reasons[0] if reasons else "the input is not the same any more"
    return documents, f"the text of {missing:,} of {len(documents):,} documents is missing: {why}"


def _read_again(
    documents: Sequence[RunDocument], layout: splits.Layout, split: int
) -> list[RunDocument]:
    """The documents of a split with their contents."""
    for source in layout.sources_of(split):
        check_unchanged(source)
    hashes = {document.doc_id: document.text_sha256 for document in documents}
    wanted = pa.array(list(hashes))
    contents: dict[str, str] = {}
    for batch in read_split(layout.splits[split], layout.sources, layout.config):
        chosen = batch.filter(
            pc.and_(pc.is_in(batch["doc_id"], wanted), pc.is_valid(batch["content"]))
        )
        for row in chosen.select(["doc_id", "content"]).to_pylist():
            # An id may be repeated; the run has one of its documents.
            if sha256(row["content"].encode()).hexdigest() == hashes[row["doc_id"]]:
                contents[row["doc_id"]] = row["content"]
    return [replace(document, content=contents.get(document.doc_id)) for document in documents]


def run_tokenizer(run: RunDir, plan: Plan) -> Tokenizer:
    """The tokenizer that the run's documents were tokenized with.

    Raises UsageError if the corpus model of the run is not there any more.
    """
    try:
        text = corpus_model.text_config_of(plan.model_dir(run))
        return Tokenizer(host_cache.text_on_host(text))
    except (OSError, ValueError) as error:
        raise UsageError(f"the corpus model of run {run.run_id} cannot be read: {error}") from error


def tokenized(documents: Sequence[RunDocument], tokenizer: Tokenizer) -> pa.RecordBatch:
    """Columns content, language and those of `Tokenizer.tokenize`; all contents are known."""
    contents = pa.array([document.content for document in documents], pa.string())
    languages = pa.array([document.language for document in documents], pa.string())
    tokens = tokenizer.tokenize(contents, languages)
    return pa.RecordBatch.from_arrays(
        [contents, languages, *tokens.columns], names=["content", "language", *tokens.schema.names]
    )
