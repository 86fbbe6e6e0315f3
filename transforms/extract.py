"""The extract stage: every document's keywords, topics and embedding, and every rejected one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from lexbeam.models import schemas
from lexbeam.models.failures import error_text
from lexbeam.models.features import FeatureConfig, FeatureModels, document_features
from lexbeam.transforms import blocks, host_cache
from lexbeam.transforms.bisect import process_bisecting
from lexbeam.transforms.died import PROCESS_DIED
from lexbeam.transforms.map_blocks import MapBlocksDoFn
from lexbeam.transforms.tokenize import TOKENIZE_FAILED

ERRORS = "errors"
EXTRACT_FAILED = "extract-failed"
DUPLICATE_ID = "duplicate-id"

_Extracted: TypeAlias = tuple[pa.RecordBatch, pa.RecordBatch]
_Output: TypeAlias = "pa.RecordBatch | beam.pvalue.TaggedOutput"


@dataclass(frozen=True)
class ExtractConfig:
    """What extract writes.

    Attributes:
        features: which features, how many keywords and the files of the corpus models.
        keep_text: whether documents get a column `text`.
        keep_columns: extra columns of the input.
        has_labels: whether a classifier has told the documents' classes.
    """

    features: FeatureConfig
    keep_text: bool = False
    keep_columns: tuple[str, ...] = ()
    has_labels: bool = False

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the documents."""
        return schemas.documents_schema(
            self.features.dimensions,
            keep_text=self.keep_text,
            keep_columns=self.keep_columns,
            labels=self.has_labels,
        )


class ExtractDoFn(MapBlocksDoFn[_Extracted]):
    """Zipped blocks to blocks of documents, and blocks of errors under the tag `errors`."""

    def __init__(self, config: ExtractConfig) -> None:
        self._config = config
        self._documents = Metrics.counter("ExtractFeatures", "documents-out")
        self._rejected = Metrics.counter("ExtractFeatures", "documents-rejected")

    def setup(self) -> None:
        super().setup()
        features = self._config.features
        model_dir = host_cache.copy_of_corpus_model(features.model_dir)
        self._models = FeatureModels.load(replace(features, model_dir=model_dir))

    def compute(self, block: pa.RecordBatch) -> _Extracted:
        good = block.filter(is_good(block))
        pieces = process_bisecting(good, self._documents_of, self._reject)
        documents = blocks.joined([documents for documents, _ in pieces])
        errors = blocks.joined([error_rows(block), *(errors for _, errors in pieces)])
        return documents, errors

    def emit(self, result: _Extracted, split: int) -> list[_Output]:
        documents, errors = result
        self._documents.inc(documents.num_rows)
        self._rejected.inc(errors.num_rows)
        return _tagged(blocks.of_split(documents, split), blocks.of_split(errors, split))

    def emit_last(self, split: int) -> list[_Output]:
        last_documents = blocks.last_block(self._config.schema, split)
        return _tagged(last_documents, blocks.last_block(schemas.ERRORS, split))

    def _documents_of(self, good: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Documents, and no errors."""
        columns = dict(zip(good.schema.names, good.columns, strict=True))
        columns |= document_features(good, self._models, self._config.features)
        columns["text"] = columns["content"]
        if self._config.has_labels:
            columns["label"] = columns["predicted_label"]
            columns["label_score"] = columns["predicted_label_score"]
        arrays = [
            columns[field.name] if field.name in columns else pa.nulls(good.num_rows, field.type)
            for field in self._config.schema
        ]
        documents = pa.RecordBatch.from_arrays(arrays, schema=self._config.schema)
        return documents, pa.RecordBatch.from_pylist([], schema=schemas.ERRORS)

    def _reject(
        self, document: pa.RecordBatch, error: BaseException
    ) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """No document, and the error of the one that failed."""
        row = {name: document[name][0].as_py() for name in ("doc_id", "source", "position")}
        row |= {"stage": "extract", "error_type": EXTRACT_FAILED, "message": error_text(error)}
        nothing = pa.RecordBatch.from_pylist([], schema=self._config.schema)
        return nothing, pa.RecordBatch.from_pylist([row], schema=schemas.ERRORS)


def _tagged(documents: pa.RecordBatch, errors: pa.RecordBatch) -> list[_Output]:
    return [documents, beam.pvalue.TaggedOutput(ERRORS, errors)]


def is_good(block: pa.RecordBatch) -> pa.Array:
    """Which rows are documents: neither rejected, nor dropped, nor failed in a model."""
    good = pc.and_(pc.is_null(block["error_type"]), pc.invert(block["dropped"]))
    for stage in schemas.ENCODING_STAGES:
        if f"{stage}_error_type" in block.schema.names:
            good = pc.and_(good, pc.is_null(block[f"{stage}_error_type"]))
    return good


def error_rows(block: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of schemas.ERRORS for the block's documents that are not good, in order."""
    rows = []
    for row in np.flatnonzero(~np.array(is_good(block).to_pylist(), bool)).tolist():
        document = {name: block[name][row].as_py() for name in _error_columns(block)}
        stage, error_type, message = _reason(document)
        place = {name: document[name] for name in ("doc_id", "source", "position")}
        rows.append(place | {"stage": stage, "error_type": error_type, "message": message})
    return pa.RecordBatch.from_pylist(rows, schema=schemas.ERRORS)


def _error_columns(block: pa.RecordBatch) -> list[str]:
    names = ["doc_id", "source", "position", "error_type", "error_message", "dropped"]
    names += ["first_source", "first_position", "died_stage", "died_message"]
    names += [
        f"{stage}_error_{what}" for stage in schemas.ENCODING_STAGES for what in ("type", "message")
    ]
    return [name for name in names if name in block.schema.names]


def _reason(document: dict[str, object]) -> tuple[str, object, object]:
    """Stage, type and message of a rejected document."""
    if document["error_type"] is not None:
        is_read = document["error_type"] not in (TOKENIZE_FAILED, PROCESS_DIED)
        stage = "read" if is_read else "tokenize"
        return stage, document["error_type"], document["error_message"]
    if document["died_stage"] is not None:
        return str(document["died_stage"]), PROCESS_DIED, document["died_message"]
    if document["dropped"]:
        place = f"{document['first_source']}, position {document['first_position']}"
        message = f"id {document['doc_id']!r} stands first in {place}"
        return "corpus", DUPLICATE_ID, message
    stage = next(
        name for name in schemas.ENCODING_STAGES if document.get(f"{name}_error_type") is not None
    )
    return stage, document[f"{stage}_error_type"], document[f"{stage}_error_message"]


class ExtractFeatures(beam.PTransform):  # type: ignore[misc]
    """Zipped blocks to documents (main output) and `errors`."""

    def __init__(self, config: ExtractConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, blocks_in: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        extract = beam.ParDo(ExtractDoFn(self._config)).with_output_types(pa.RecordBatch)
        outputs = blocks_in | "Extract" >> extract.with_outputs(ERRORS, main="documents")
        # Beam gives the declared type, and so its coder, to the main output only.
        outputs[ERRORS].element_type = pa.RecordBatch
        return outputs


class CollectErrorsDoFn(beam.DoFn):  # type: ignore[misc]
    """Zipped blocks to blocks of errors alone, for jobs that write no documents."""

    def process(self, block: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        split = blocks.split_of(block)
        if blocks.is_last(block):
            yield blocks.last_block(schemas.ERRORS, split)
        else:
            yield blocks.of_split(error_rows(block), split)


class CollectErrors(beam.PTransform):  # type: ignore[misc]
    """The rejected documents of every split."""

    def expand(self, blocks_in: beam.PCollection) -> beam.PCollection:
        collect = beam.ParDo(CollectErrorsDoFn()).with_output_types(pa.RecordBatch)
        return blocks_in | "CollectErrors" >> collect
